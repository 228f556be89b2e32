package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"strings"

	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/outbox/storage"
)

// snapshot is a read-only transaction: all its reads see one state, and the server they came from.
type snapshot struct {
	*sql.Tx
	uuid    string
	server  string
	counter int64 // the highest row number given out
}

// serverName names the database a connection reads: another file at the same path (a restored backup) has another name
// within this process, and another outbox always.
func serverName(uuid string, life int) string { return uuid + "/" + strconv.Itoa(life) }

// lifeOf tells which file a connection reads.
func lifeOf(c *sql.Conn) (life int, err error) {
	err = c.Raw(func(driverConn any) error {
		inner, ok := driverConn.(*conn)
		if !ok {
			return fmt.Errorf("unexpected connection %T", driverConn)
		}
		life = inner.life
		return nil
	})
	return life, err
}

// read runs fn on a snapshot.
func (o *Outbox) read(ctx context.Context, op string, fn func(snapshot) error) error {
	err := func() error {
		c, err := o.db.Conn(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		life, err := lifeOf(c)
		if err != nil {
			return err
		}
		sqlTx, err := c.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
		if err != nil {
			return err
		}
		defer func() { _ = sqlTx.Rollback() }()
		s := snapshot{Tx: sqlTx}
		if err := s.identify(ctx, sqlTx, life); err != nil {
			return err
		}
		return fn(s)
	}()
	return explain(op, o.drv.path, err)
}

// identityQuery reads whose rows these are, and the highest number given out. The row of sqlite_sequence is missing before the first insert,
// and may be deleted or set by hand.
const identityQuery = `SELECT uuid, max(coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'twostep_outbox'), 0), coalesce((SELECT max(seq) FROM twostep_outbox), 0))
FROM twostep_outbox_meta WHERE one = 1`

func (s *snapshot) identify(ctx context.Context, by interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}, life int) error {
	if err := by.QueryRowContext(ctx, identityQuery).Scan(&s.uuid, &s.counter); err != nil {
		return err
	}
	s.server = serverName(s.uuid, life)
	return nil
}

// page reads rows into a Page; query selects rowColumns.
func (s snapshot) page(ctx context.Context, query string, args ...any) (outbox.Page, error) {
	p := outbox.Page{Server: s.server, Counter: s.counter}
	rows, err := s.QueryContext(ctx, query, args...)
	if err != nil {
		return outbox.Page{}, err
	}
	defer func() { _ = rows.Close() }()
	if err := storage.Page(rows, s.uuid, &p); err != nil {
		return outbox.Page{}, err
	}
	return p, rows.Err()
}

const (
	scanRows          = `SELECT ` + rowColumns + ` FROM twostep_outbox o WHERE o.seq > ? ORDER BY o.seq LIMIT ?`
	scanRowsNoPayload = `SELECT ` + rowColumnsNoPayload + ` FROM twostep_outbox o WHERE o.seq > ? ORDER BY o.seq LIMIT ?`
	readRows          = `SELECT ` + rowColumns + ` FROM twostep_outbox o WHERE o.seq IN (SELECT value FROM json_each(?)) ORDER BY o.seq`
	// The order of the join is forced: a range of the table for each gap.
	probeRows = `SELECT ` + rowColumns + ` FROM json_each(?) g CROSS JOIN twostep_outbox o
WHERE o.seq BETWEEN json_extract(g.value, '$[0]') AND json_extract(g.value, '$[1]') ORDER BY o.seq LIMIT ?`
)

// peek asks for the counter alone, in a single statement without a transaction: it is all that an idle relay asks.
func (o *Outbox) peek(ctx context.Context) (outbox.Page, error) {
	var s snapshot
	err := func() error {
		c, err := o.db.Conn(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		life, err := lifeOf(c)
		if err != nil {
			return err
		}
		return s.identify(ctx, c, life)
	}()
	return outbox.Page{Server: s.server, Counter: s.counter}, err
}

// Scan reads up to limit rows after a number.
func (o *Outbox) Scan(ctx context.Context, after int64, limit int, payload bool) (p outbox.Page, err error) {
	query := scanRows
	if !payload {
		query = scanRowsNoPayload
	}
	const op = "scan the outbox"
	if p, err = o.peek(ctx); err != nil || p.Counter <= after { // no row has a higher number
		return p, explain(op, o.drv.path, err)
	}
	err = o.read(ctx, op, func(s snapshot) (err error) {
		p, err = s.page(ctx, query, after, limit)
		return err
	})
	return p, err
}

// Read reads given rows; those that are gone are left out.
func (o *Outbox) Read(ctx context.Context, seqs []int64) (p outbox.Page, err error) {
	err = o.read(ctx, "read outbox rows", func(s snapshot) (err error) {
		p, err = s.page(ctx, readRows, jsonInts(seqs))
		return err
	})
	return p, err
}

// Probe reads what has appeared in gaps. SQLite has one writer at a time and numbers rows while it writes, so numbers
// become visible in their order: where a snapshot shows no row below one that was seen, there never will be one.
func (o *Outbox) Probe(ctx context.Context, gaps []outbox.Gap, limit int) (p outbox.Page, closed []outbox.Gap, err error) {
	var ranges strings.Builder
	ranges.WriteByte('[')
	for i, g := range gaps {
		if i > 0 {
			ranges.WriteByte(',')
		}
		fmt.Fprintf(&ranges, "[%d,%d]", g.From, g.To)
	}
	ranges.WriteByte(']')
	err = o.read(ctx, "probe gaps of the outbox", func(s snapshot) (err error) {
		p, err = s.page(ctx, probeRows, ranges.String(), limit)
		return err
	})
	if err != nil {
		return outbox.Page{}, nil, err
	}
	for _, g := range gaps {
		closed = append(closed, storage.EmptyParts(g, p.Rows, p.Cut || len(p.Rows) == limit)...)
	}
	return p, closed, nil
}

// Load reads the outbox's identity and what relays before recorded.
func (o *Outbox) Load(ctx context.Context) (outbox.Snapshot, error) {
	var loaded outbox.Snapshot
	err := o.read(ctx, "load the outbox", func(s snapshot) (err error) {
		loaded = outbox.Snapshot{UUID: s.uuid, Server: s.server}
		err = s.QueryRowContext(ctx, `SELECT registry_owner, registry_version FROM twostep_outbox_meta`).
			Scan(&loaded.Head.Owner, &loaded.Head.Version)
		if err != nil {
			return err
		}
		if loaded.Topics, err = storage.Query(ctx, s, storage.Topic, `SELECT name, delivery, no_subscribers, keyed, version, deleted FROM twostep_outbox_topic ORDER BY name`); err != nil {
			return err
		}
		loaded.Bits, err = storage.Query(ctx, s, storage.Bits,
			`SELECT confirmer, topic, name, created_at, removed, bitmap, "cursor", digest FROM twostep_outbox_confirmer ORDER BY created_at, confirmer`)
		return err
	})
	return loaded, err
}
