package postgres

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/orchestrator/txn"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/outbox/storage"
)

// Outbox is the outbox in a PostgreSQL database: outbox.Store for senders and outbox.RelayStore for the relay.
type Outbox struct {
	db *sql.DB
	q  outboxQueries
}

var (
	_ outbox.Store      = (*Outbox)(nil)
	_ outbox.RelayStore = (*Outbox)(nil)
)

// NewOutbox uses the outbox in db, which Migrate has brought up to date. It refuses a server that may lose what it acknowledges.
func NewOutbox(ctx context.Context, db *sql.DB, cfg Config) (*Outbox, error) {
	n, err := prepare(ctx, db, Service, cfg)
	if err != nil {
		return nil, fmt.Errorf("outbox: %w", err)
	}
	if err := checkSequence(ctx, db, n); err != nil {
		return nil, fmt.Errorf("outbox: %w", err)
	}
	server, err := serverColumnsFor(ctx, db)
	if err != nil {
		return nil, fmt.Errorf("outbox: %w", err)
	}
	return &Outbox{db: db, q: newOutboxQueries(n, server)}, nil
}

// outboxQueries are the queries with the real names in them.
type outboxQueries struct {
	uuid, insert, guard                 string
	lease, take, beat, resign           string
	scan, scanNoPayload, read, probe    string
	header, server, topics, bits        string
	swap, release, confirm, head, topic string
}

func newOutboxQueries(n names, server string) outboxQueries {
	header := `SELECT ` + headerColumns(server) + `, m.server, m.registry_owner, m.registry_version FROM twostep.outbox_meta m, twostep.outbox_seq s`
	page := func(rows string) string { return n.sql(pageOf(server, rows)) }
	return outboxQueries{
		uuid:   n.sql(`SELECT uuid::text FROM twostep.outbox_meta`),
		insert: n.sql(insertRow), guard: n.sql(insertGuard),
		lease: n.sql(readLease), take: n.sql(takeLease), beat: n.sql(beatLease), resign: n.sql(resignLease),
		scan: page(scanRows), scanNoPayload: page(scanRowsNoPayload), read: page(readRows), probe: page(probeRows),
		header: n.sql(header), server: n.sql(`SELECT ` + server + ` FROM twostep.outbox_meta m`), topics: n.sql(loadTopics), bits: n.sql(loadBits),
		swap:    n.sql(`UPDATE twostep.outbox_meta m SET beat = beat + 1, server = ` + server + ` WHERE lease_owner = $1 AND epoch = $2 RETURNING lease_owner, epoch, beat`),
		release: n.sql(deleteRows), confirm: n.sql(writeConfirmer), head: n.sql(writeHead), topic: n.sql(writeTopic),
	}
}

// UUID reads the outbox's UUID, made by its migration.
func (o *Outbox) UUID(ctx context.Context) (string, error) {
	var uuid string
	if err := o.db.QueryRowContext(ctx, o.q.uuid).Scan(&uuid); err != nil {
		return "", explain("read the outbox's UUID", err)
	}
	return uuid, nil
}

// The casts keep the types the same whichever driver and protocol the caller's transaction uses.
const (
	insertRow = `INSERT INTO twostep.outbox (id, topic, "key", gid, content_type, headers, created_at, payload)
VALUES ($1::uuid, $2::text, $3::text, $4::text, $5::text, $6::text::json, $7::bigint, $8::bytea)`

	insertGuard = `INSERT INTO twostep.barrier (gid, branch_id, op, barrier_id, outcome) VALUES ($1::text, $2::text, $3::text, $4::text, $5::text)
ON CONFLICT (gid, branch_id, op, barrier_id) DO NOTHING`
)

// Insert writes m as one row; with guard, first the barrier row of its gid, and outbox.ErrDuplicate if that was there. It waits
// for another transaction that publishes the same gid. In a transaction of Transact's or a handler's the row goes to the server with the
// next statement or with COMMIT, and so do its errors.
func (o *Outbox) Insert(ctx context.Context, tx outbox.Execer, m *broker.Message, guard bool) error {
	if guard {
		if err := o.insertGuard(ctx, tx, cmp.Or(m.GID, m.ID)); err != nil {
			return err
		}
	}
	headers, err := storage.EncodeHeaders(m.Headers)
	if err != nil {
		return fmt.Errorf("postgres: insert message: %w", err)
	}
	gid := m.GID
	if gid == m.ID {
		gid = ""
	}
	created := m.Time
	if created.IsZero() {
		created = time.Now()
	}
	args := []any{m.ID, m.Topic, m.Key, gid, m.ContentType, headers, created.UnixMilli(), notNil(m.Payload)}
	if managed, ok := tx.(*managedTx); ok {
		return managed.insert(ctx, o.q.insert, args...)
	}
	_, err = tx.ExecContext(ctx, o.q.insert, args...)
	return explain("insert message", err)
}

func (o *Outbox) insertGuard(ctx context.Context, tx outbox.Execer, gid string) error {
	res, err := tx.ExecContext(ctx, o.q.guard, gid, txn.BranchRoot, txn.OpMsg, txn.BarrierFirst, string(txn.Success))
	if err != nil {
		return explain("insert barrier", err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return explain("insert barrier", err)
	}
	if n == 0 {
		return fmt.Errorf("%w %q", outbox.ErrDuplicate, gid)
	}
	return nil
}

// Transact runs fn in a transaction (READ COMMITTED) and commits it if fn returns nil. PostgreSQL itself flushes concurrent commits
// together. Where fn ended the transaction itself, or swallowed an error that did, the error is ErrEnded; a COMMIT that fn ran as
// SQL stands. ErrCommitUnknown says that nobody knows.
func (o *Outbox) Transact(ctx context.Context, fn func(outbox.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s, err := begin(ctx, o.db)
	if err != nil {
		return err
	}
	defer func() { _ = s.rollback() }() // after a commit it does nothing; a panic or runtime.Goexit comes by here, too
	if err := fn(s.handed); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil { // whoever asked has given up: it must not be surprised by a commit
		return err
	}
	if err := s.commit(ctx); err != nil {
		if errors.Is(err, ErrEnded) {
			return fmt.Errorf("transact: nothing more was committed: %w", err)
		}
		return err
	}
	return nil
}
