package mysql

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/outbox/storage"
)

// relayStatements are the relay's statements with the tables' names.
type relayStatements struct {
	peek, scan, scanNoPayload, read, probe, closing, closingWide, createTable, meta, topics, bits string
}

const (
	scanRows          = "SELECT " + rowColumns + " FROM `{p}outbox` o WHERE o.seq > ? ORDER BY o.seq LIMIT ?"
	scanRowsNoPayload = "SELECT " + rowColumnsNoPayload + " FROM `{p}outbox` o WHERE o.seq > ? ORDER BY o.seq LIMIT ?"

	// The order of the join is forced: one look-up by primary key for each number.
	readRows = "SELECT " + rowColumns + " FROM JSON_TABLE(?, '$[*]' COLUMNS (n BIGINT PATH '$')) g " +
		"STRAIGHT_JOIN `{p}outbox` o FORCE INDEX (PRIMARY) ON o.seq = g.n"

	// peekRows tells whose rows these are and whether there is one, in one statement: all that an idle relay asks for.
	peekRows = "SELECT COALESCE(@twostep_server, ''), uuid, EXISTS (SELECT 1 FROM `{p}outbox` o WHERE o.seq > ?) FROM `{p}outbox_meta`"

	readMeta = "SELECT @twostep_server, uuid, registry_owner, registry_version, server FROM `{p}outbox_meta`"
)

func newRelayStatements(srv *server) relayStatements {
	cfg := srv.cfg
	return relayStatements{
		peek: cfg.sql(peekRows), scan: cfg.sql(scanRows), scanNoPayload: cfg.sql(scanRowsNoPayload), read: cfg.sql(readRows), probe: cfg.sql(probeRows),
		closing: cfg.sql(lockNumbers + srv.forUpdateOf("o") + " NOWAIT"), closingWide: cfg.sql(lockRange), createTable: cfg.sql("SHOW CREATE TABLE `{p}outbox`"),
		meta:   cfg.sql(readMeta),
		topics: cfg.sql("SELECT name, delivery, no_subscribers, keyed, version, deleted FROM `{p}outbox_topic` ORDER BY name"),
		bits: cfg.sql("SELECT confirmer, topic, name, created_at, removed, bitmap, `cursor`, digest FROM `{p}outbox_confirmer` " +
			"ORDER BY created_at, confirmer"),
	}
}

// The identity of a server's life: which server, and when it was started. UNIX_TIMESTAMP and uptime both take the statement's beginning
// for now, in whole seconds, so their difference is the same at every call, whatever becomes of the clock; two lives that began
// within one second look like one. It is kept in a variable of the session, which dies with the server, or where a pooler goes on
// to another one: asking for the uptime costs as much as reading a hundred rows.
const (
	lifeOfMariaDB = `SET @twostep_server = (SELECT CONCAT_WS('/', 'mariadb', @@server_id, @@hostname, @@port, UNIX_TIMESTAMP() - VARIABLE_VALUE)
FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME = 'UPTIME')`
	lifeOfMySQL = `SET @twostep_server = (SELECT CONCAT_WS('/', 'mysql', @@server_uuid, UNIX_TIMESTAMP() - VARIABLE_VALUE)
FROM performance_schema.global_status WHERE VARIABLE_NAME = 'Uptime')`
)

// snapshot is a transaction and whose rows it reads.
type snapshot struct {
	*sql.Tx
	o        *Outbox
	uuid     string
	server   string
	head     outbox.RegistryHead
	recorded string
}

// identify reads which outbox on which server this is, within a transaction.
func (o *Outbox) identify(ctx context.Context, tx *sql.Tx) (snapshot, error) {
	s := snapshot{Tx: tx, o: o}
	for range 2 {
		var life sql.NullString
		if err := tx.QueryRowContext(ctx, o.relay.meta).Scan(&life, &s.uuid, &s.head.Owner, &s.head.Version, &s.recorded); err != nil {
			return s, err
		}
		if life.Valid {
			s.server = s.uuid + "/" + life.String
			return s, nil
		}
		statement := lifeOfMySQL
		if o.srv.mariadb {
			statement = lifeOfMariaDB
		}
		if _, err := tx.ExecContext(ctx, statement); err != nil {
			return s, fmt.Errorf("ask for the server's uptime: %w", err)
		}
	}
	return s, errors.New("the server does not tell its uptime")
}

// read runs fn in a transaction of its own that is rolled back; op says what for.
func (o *Outbox) read(ctx context.Context, op string, opts sql.TxOptions, fn func(snapshot) error) error {
	err := func() error {
		tx, err := o.srv.db.BeginTx(ctx, &opts)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }()
		s, err := o.identify(ctx, tx)
		if err != nil {
			return err
		}
		return fn(s)
	}()
	return explain(op, err)
}

// page reads rows into a Page; query selects rowColumns.
func (s snapshot) page(ctx context.Context, query string, args ...any) (p outbox.Page, err error) {
	p.Server = s.server
	rows, err := s.QueryContext(ctx, query, args...)
	if err != nil {
		return outbox.Page{}, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	if err := storage.Page(rows, s.uuid, &p); err != nil {
		return outbox.Page{}, err
	}
	return p, rows.Err()
}

var (
	committed  = sql.TxOptions{Isolation: sql.LevelReadCommitted, ReadOnly: true}  //nolint:gochecknoglobals // a constant in all but syntax
	repeatable = sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true} //nolint:gochecknoglobals // likewise
)

// Scan reads up to limit rows after a number.
func (o *Outbox) Scan(ctx context.Context, after int64, limit int, payload bool) (p outbox.Page, err error) {
	query := o.relay.scanNoPayload
	if payload {
		query = o.relay.scan
	}
	if p, idle, err := o.peek(ctx, after); idle || err != nil {
		return p, explain("look into the outbox", err)
	}
	err = o.read(ctx, "scan the outbox", committed, func(s snapshot) (err error) {
		if p, err = s.page(ctx, query, after, limit); err != nil {
			return err
		}
		// After the rows: the counter must not be below them.
		p.Counter, err = o.counter(ctx, s, after == 0)
		return err
	})
	return p, err
}

// counterEvery is how often the table's counter is read, which costs as much as scanning it.
const counterEvery = 2 * time.Second

// nextNumber finds the number that the next row would get; a table that never had one does not say.
var nextNumber = regexp.MustCompile(`\n\).* AUTO_INCREMENT=(\d+)`)

// peek looks whether there are rows behind a number. Without one that is all there is to read.
func (o *Outbox) peek(ctx context.Context, after int64) (p outbox.Page, idle bool, err error) {
	var life, uuid string
	var rows bool
	if err := o.srv.db.QueryRowContext(ctx, o.relay.peek, after).Scan(&life, &uuid, &rows); err != nil {
		return p, false, err
	}
	if rows || life == "" { // a session that has not asked for the server's life yet
		return p, false, nil
	}
	p.Server = uuid + "/" + life
	p.Counter, err = o.counter(ctx, o.srv.db, after == 0)
	return p, true, err
}

// counter is the highest number given out, 0 where it was read lately. That it goes back tells of a TRUNCATE. (SHOW CREATE TABLE
// tells the counter itself; in information_schema MySQL shows one of up to a day ago.)
func (o *Outbox) counter(ctx context.Context, db querier, must bool) (int64, error) {
	o.mu.Lock()
	due := must || time.Since(o.counterAt) >= counterEvery
	if due {
		o.counterAt = time.Now()
	}
	o.mu.Unlock()
	if !due {
		return 0, nil
	}
	var name, text string
	if err := db.QueryRowContext(ctx, o.relay.createTable).Scan(&name, &text); err != nil {
		return 0, err
	}
	found := nextNumber.FindStringSubmatch(text)
	if found == nil {
		return 0, nil
	}
	next, err := strconv.ParseInt(found[1], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("counter of the outbox's table: %w", err)
	}
	return next - 1, nil
}

// Read reads given rows; those that are gone are left out.
func (o *Outbox) Read(ctx context.Context, seqs []int64) (p outbox.Page, err error) {
	err = o.read(ctx, "read outbox rows", committed, func(s snapshot) (err error) {
		p, err = s.page(ctx, o.relay.read, numberList(seqs))
		// Sorting there would carry the payloads through a temporary table.
		slices.SortFunc(p.Rows, func(a, b outbox.Row) int { return cmp.Compare(a.Seq, b.Seq) })
		return err
	})
	return p, err
}

// Load reads the outbox's identity and what relays before recorded.
func (o *Outbox) Load(ctx context.Context) (outbox.Snapshot, error) {
	var loaded outbox.Snapshot
	err := o.read(ctx, "load the outbox", repeatable, func(s snapshot) (err error) {
		// The server may be another one since NewOutbox.
		if err := o.checkNumbers(ctx, s.Tx); err != nil {
			return err
		}
		loaded = outbox.Snapshot{UUID: s.uuid, Server: s.server, Head: s.head, Recorded: s.recorded}
		if loaded.Topics, err = storage.Query(ctx, s, storage.Topic, o.relay.topics); err != nil {
			return err
		}
		loaded.Bits, err = storage.Query(ctx, s, storage.Bits, o.relay.bits)
		return err
	})
	return loaded, err
}
