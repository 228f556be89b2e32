package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// minVersion is the first server version with pg_current_snapshot and gen_random_uuid.
const minVersion = 130000

// checkDriver refuses a database whose connections are not pgx's.
func checkDriver(db *sql.DB) error {
	if db == nil {
		return errors.New("postgres: no database given (nil)")
	}
	if _, ok := db.Driver().(*stdlib.Driver); !ok {
		return fmt.Errorf("postgres: this database was opened with the driver %T: open it with pgx: sql.Open(\"pgx\", dsn), stdlib.OpenDB or stdlib.OpenDBFromPool", db.Driver())
	}
	return nil
}

// serverSettings are those without which the tables cannot be used.
type serverSettings struct {
	version                       int
	shown, encoding               string
	fsync, fullPages, synchronous string
}

// checkServer refuses a server that is too old, keeps text that is not UTF-8, or does not keep what it acknowledges.
func checkServer(ctx context.Context, db *sql.DB, cfg Config) error {
	var s serverSettings
	err := db.QueryRowContext(ctx, `SELECT current_setting('server_version_num')::int, current_setting('server_version'), current_setting('server_encoding'),
  current_setting('fsync'), current_setting('full_page_writes'), current_setting('synchronous_commit')`).
		Scan(&s.version, &s.shown, &s.encoding, &s.fsync, &s.fullPages, &s.synchronous)
	if err != nil {
		return explain("ask the server for its settings", err)
	}
	return s.check(cfg)
}

func (s *serverSettings) check(cfg Config) error {
	if s.version < minVersion {
		return fmt.Errorf("postgres: server version %s is too old: use PostgreSQL 13 or later", s.shown)
	}
	if s.encoding != "UTF8" {
		return fmt.Errorf("postgres: the database's encoding is %s and must be UTF8: make it with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0", s.encoding)
	}
	if cfg.AllowUnsafeDurability {
		return nil
	}
	var bad []string
	if s.fsync != "on" {
		bad = append(bad, "fsync is off: ALTER SYSTEM SET fsync = on")
	}
	if s.fullPages != "on" {
		bad = append(bad, "full_page_writes is off: ALTER SYSTEM SET full_page_writes = on")
	}
	if s.synchronous == "off" {
		bad = append(bad, "synchronous_commit is off: ALTER SYSTEM (or ROLE, or DATABASE) … SET synchronous_commit = on")
	}
	if len(bad) > 0 {
		return fmt.Errorf("%w: commits may be lost in a crash: %s; then SELECT pg_reload_conf(). Or allow_unsafe_durability, without twostep's promises", ErrUnsafe, strings.Join(bad, "; "))
	}
	return nil
}

// checkSequence refuses a sequence that hands numbers out in another order than they are asked for.
func checkSequence(ctx context.Context, db *sql.DB, n names) error {
	var cache, increment int64
	var cycles bool
	err := db.QueryRowContext(ctx, `SELECT seqcache, seqincrement, seqcycle FROM pg_sequence WHERE seqrelid = $1::text::regclass`, n.table("outbox_seq")).
		Scan(&cache, &increment, &cycles)
	if err != nil {
		return explain("look at the outbox's sequence", err)
	}
	if cache != 1 || increment != 1 || cycles {
		return fmt.Errorf("%w: the sequence %s has cache %d, increment %d, cycle %v: ALTER SEQUENCE %s CACHE 1 INCREMENT 1 NO CYCLE",
			ErrUnsafe, n.table("outbox_seq"), cache, increment, cycles, n.table("outbox_seq"))
	}
	return nil
}

// serverColumns tell which server, database and tables answer, as text: the cluster and the start of this server (a restart, a
// failover, another server behind a pooler), and the tables (a restored or emptied one has another file). Managed servers may forbid
// to read the cluster's own identifier; the moment of its start, in microseconds, stands for it then.
const (
	serverColumns = `(SELECT system_identifier FROM pg_control_system())::text || '/' || ` + serverColumnsPlain
	// A table's file changes with VACUUM FULL, too; then the relay reads its tables again, and no harm is done.
	serverColumnsPlain = `to_char(pg_postmaster_start_time() AT TIME ZONE 'UTC', 'YYYYMMDDHH24MISSUS') || '/' || m.tableoid::text || '/' ||
  coalesce(pg_relation_filenode('twostep.outbox'), 0)::text`
)

// serverColumnsFor chooses the columns that this role may read.
func serverColumnsFor(ctx context.Context, db *sql.DB) (string, error) {
	var allowed bool
	err := db.QueryRowContext(ctx, `SELECT has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')`).Scan(&allowed)
	if err != nil {
		return "", explain("ask for rights", err)
	}
	if !allowed {
		return serverColumnsPlain, nil
	}
	return serverColumns, nil
}

// withConn runs fn on one connection of the pool, as pgx's.
func withConn(ctx context.Context, db *sql.DB, fn func(*pgx.Conn) error) error {
	c, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	return c.Raw(func(driverConn any) error {
		inner, ok := driverConn.(*stdlib.Conn)
		if !ok {
			return fmt.Errorf("unexpected connection %T", driverConn)
		}
		return fn(inner.Conn())
	})
}

// readSnapshot runs queries on one snapshot, in one round trip; queue adds them.
func readSnapshot(ctx context.Context, db *sql.DB, queue func(*pgx.Batch)) error {
	return withConn(ctx, db, func(pg *pgx.Conn) error {
		b := &pgx.Batch{}
		b.Queue(`BEGIN READ ONLY ISOLATION LEVEL REPEATABLE READ`)
		queue(b)
		b.Queue(`COMMIT`)
		err := sendBatch(ctx, pg, b)
		if err != nil && !pg.IsClosed() {
			return endPlain(ctx, pg, err)
		}
		return err
	})
}
