package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/outbox/storage"
)

// gapAge is how old a gap must be before it is closed, besides what the transactions say: a number taken by hand (SELECT nextval)
// belongs to a transaction that may have no id yet.
const gapAge = 10 * time.Second

// header is what each read learns besides its rows.
type header struct {
	uuid, server string
	counter      int64
	// xmin: all transactions with a lower id have ended. next: all that have an id have a lower one.
	xmin, next int64
}

const (
	scanRows          = `SELECT ` + rowColumns + ` FROM twostep.outbox o WHERE o.seq > $1 ORDER BY o.seq LIMIT $2`
	scanRowsNoPayload = `SELECT ` + rowColumnsNoPayload + ` FROM twostep.outbox o WHERE o.seq > $1 ORDER BY o.seq LIMIT $2`
	readRows          = `SELECT ` + rowColumns + ` FROM twostep.outbox o WHERE o.seq = ANY($1::bigint[]) ORDER BY o.seq`
	// A range of the table for each gap:
	//
	//	Limit → Sort → Nested Loop
	//	  → Function Scan on g
	//	  → Limit → Index Scan using twostep_outbox_pkey on twostep_outbox o, Index Cond: ((seq >= g.lo) AND (seq <= g.hi))
	probeRows = `SELECT o.* FROM unnest($1::bigint[], $2::bigint[]) AS g (lo, hi)
CROSS JOIN LATERAL (SELECT ` + rowColumns + ` FROM twostep.outbox o WHERE o.seq BETWEEN g.lo AND g.hi ORDER BY o.seq LIMIT $3) o
ORDER BY 1 LIMIT $3`

	loadTopics = `SELECT name, delivery, no_subscribers, keyed, version, deleted FROM twostep.outbox_topic ORDER BY name`
	loadBits   = `SELECT confirmer, topic, name, created_at, removed, bitmap, "cursor", digest FROM twostep.outbox_confirmer ORDER BY created_at, confirmer`
)

// pageOf makes of a query for rows one that answers with the header first: one statement, and so one snapshot, without BEGIN and COMMIT around
// it.
//
//	Append
//	  → Nested Loop: Seq Scan on twostep_outbox_meta m, Seq Scan on twostep_outbox_seq s      (a row each)
//	  → Limit → Index Scan using twostep_outbox_pkey on twostep_outbox o, Index Cond: (seq > $1)
func pageOf(server, rows string) string {
	return `SELECT ` + headerColumns(server) + strings.Repeat(`, NULL`, rowWidth) + ` FROM twostep.outbox_meta m, twostep.outbox_seq s
UNION ALL SELECT` + strings.Repeat(` NULL,`, headerWidth) + ` r.* FROM (` + rows + `) r`
}

// headerWidth is how many columns a header has.
const headerWidth = 5

// headerColumns are uuid, server, counter, xmin and next. Everything in them is read behind the snapshot.
func headerColumns(server string) string {
	return `m.uuid::text, ` + server + `, s.last_value * s.is_called::int, pg_snapshot_xmin(pg_current_snapshot())::text::bigint, ` + nextXID
}

// scan reads the header, of a row that has other columns besides.
func (h *header) scan(row pgx.Row, others ...any) error {
	return row.Scan(append([]any{&h.uuid, &h.server, &h.counter, &h.xmin, &h.next}, others...)...)
}

// pageRows are the rows of a page behind its header.
type pageRows struct{ pgx.Rows }

func (r pageRows) Scan(dest ...any) error {
	return r.Rows.Scan(append(make([]any, headerWidth), dest...)...)
}

// page reads the rows a query finds.
func (o *Outbox) page(ctx context.Context, op, query string, args ...any) (p outbox.Page, h header, err error) {
	err = withConn(ctx, o.db, func(pg *pgx.Conn) error {
		rows, err := pg.Query(ctx, query, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		if !rows.Next() {
			return cmp.Or(rows.Err(), errors.New("the outbox has no row in outbox_meta: restore it, or migrate anew"))
		}
		if err := h.scan(rows, make([]any, rowWidth)...); err != nil {
			return err
		}
		if err := storage.Page(pageRows{rows}, h.uuid, &p); err != nil {
			return err
		}
		rows.Close() // where the page was full
		return rows.Err()
	})
	if err != nil {
		return outbox.Page{}, header{}, explain(op, err)
	}
	p.Server, p.Counter = h.server, h.counter
	return p, h, nil
}

// Scan reads up to limit rows after a number. The page's mark is the next transaction's id, read behind the rows' snapshot:
// whoever took a lower number than a row seen here has a lower id.
//
// The snapshot's own xmax would not do: it is one more than the highest transaction that has ended, and one that runs may
// be higher than that. (Transaction 7 writes, 8 takes number 1, 7 takes number 2 and commits: the snapshot's xmax is 8, and it is
// xmin as well while 8 still runs.)
func (o *Outbox) Scan(ctx context.Context, after int64, limit int, payload bool) (outbox.Page, error) {
	query := o.q.scan
	if !payload {
		query = o.q.scanNoPayload
	}
	p, h, err := o.page(ctx, "scan the outbox", query, after, limit)
	if err != nil {
		return outbox.Page{}, err
	}
	p.Mark = strconv.FormatInt(h.next, 10)
	return p, nil
}

// Read reads given rows; those that are gone are left out.
func (o *Outbox) Read(ctx context.Context, seqs []int64) (outbox.Page, error) {
	p, _, err := o.page(ctx, "read outbox rows", o.q.read, seqs)
	return p, err
}

// Probe reads what has appeared in gaps. A gap is closed when it is old enough and every transaction that may have taken one of its
// numbers has ended, by the snapshot that shows no row there.
func (o *Outbox) Probe(ctx context.Context, gaps []outbox.Gap, limit int) (p outbox.Page, closed []outbox.Gap, err error) {
	from, to := make([]int64, len(gaps)), make([]int64, len(gaps))
	marks := make([]int64, len(gaps))
	for i, g := range gaps {
		mark, err := strconv.ParseInt(g.Mark, 10, 64)
		if err != nil {
			return outbox.Page{}, nil, fmt.Errorf("postgres: probe gaps of the outbox: mark %q is none of this store's: %w", g.Mark, err)
		}
		from[i], to[i], marks[i] = g.From, g.To, mark
	}
	p, h, err := o.page(ctx, "probe gaps of the outbox", o.q.probe, from, to, limit)
	if err != nil {
		return outbox.Page{}, nil, err
	}
	for i, g := range gaps {
		if g.Age >= gapAge && h.xmin >= marks[i] {
			closed = append(closed, storage.EmptyParts(g, p.Rows, p.Cut || len(p.Rows) == limit)...)
		}
	}
	return p, closed, nil
}

// Load reads the outbox's identity and what relays before recorded.
func (o *Outbox) Load(ctx context.Context) (outbox.Snapshot, error) {
	var (
		loaded outbox.Snapshot
		h      header
	)
	err := readSnapshot(ctx, o.db, func(b *pgx.Batch) {
		b.Queue(o.q.header).QueryRow(func(row pgx.Row) error {
			return h.scan(row, &loaded.Recorded, &loaded.Head.Owner, &loaded.Head.Version)
		})
		b.Queue(o.q.topics).Query(func(rows pgx.Rows) error {
			for rows.Next() {
				var t outbox.RegistryTopic
				if err := rows.Scan(&t.Name, &t.Delivery, &t.NoSubscribers, &t.Keyed, &t.Version, &t.Deleted); err != nil {
					return err
				}
				loaded.Topics = append(loaded.Topics, t)
			}
			return rows.Err()
		})
		b.Queue(o.q.bits).Query(func(rows pgx.Rows) error {
			for rows.Next() {
				bits, err := storage.Bits(rows)
				if err != nil {
					return err
				}
				loaded.Bits = append(loaded.Bits, bits)
			}
			return rows.Err()
		})
	})
	if err != nil {
		return outbox.Snapshot{}, explain("load the outbox", err)
	}
	loaded.UUID, loaded.Server = h.uuid, h.server
	return loaded, nil
}
