package postgres

import (
	"context"
	"fmt"
	"strconv"
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
	// xmin: all transactions with a lower id have ended.
	xmin     uint64
	recorded string
	head     outbox.RegistryHead
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

// read runs queries on one snapshot; queue adds them. The header is read first.
func (o *Outbox) read(ctx context.Context, op string, queue func(b *pgx.Batch, h *header)) (header, error) {
	var h header
	err := readSnapshot(ctx, o.db, func(b *pgx.Batch) {
		b.Queue(o.q.header).QueryRow(h.scan)
		queue(b, &h)
	})
	return h, explain(op, err)
}

func (h *header) scan(row pgx.Row) error {
	var xmin string
	err := row.Scan(&h.uuid, &h.server, &h.counter, &xmin, &h.recorded, &h.head.Owner, &h.head.Version)
	if err != nil {
		return err
	}
	if h.xmin, err = strconv.ParseUint(xmin, 10, 64); err != nil {
		return fmt.Errorf("snapshot's xmin: %w", err)
	}
	return nil
}

// page reads the rows a query finds.
func (o *Outbox) page(ctx context.Context, op, query string, args ...any) (p outbox.Page, h header, err error) {
	h, err = o.read(ctx, op, func(b *pgx.Batch, h *header) {
		b.Queue(query, args...).Query(func(rows pgx.Rows) error {
			if err := storage.Page(rows, h.uuid, &p); err != nil {
				return err
			}
			rows.Close() // where the page was full
			return rows.Err()
		})
	})
	if err != nil {
		return outbox.Page{}, header{}, err
	}
	p.Server, p.Counter = h.server, h.counter
	return p, h, nil
}

// Scan reads up to limit rows after a number. Where numbers are missing, or where the caller may know of some (it loads, without
// payloads), the page has a mark: the id of a transaction begun after the rows were read. Whoever took a lower number than a row seen here has a lower id.
//
// The snapshot's own xmax would not do: it is one more than the highest transaction that has ended, and one that runs may
// be higher than that. (Transaction 7 writes, 8 takes number 1, 7 takes number 2 and commits: the snapshot's xmax is 8, and it is
// xmin as well while 8 still runs.)
func (o *Outbox) Scan(ctx context.Context, after int64, limit int, payload bool) (outbox.Page, error) {
	query := o.q.scan
	if !payload {
		query = o.q.scanNoPayload
	}
	const op = "scan the outbox"
	p, _, err := o.page(ctx, op, query, after, limit)
	if err == nil && (hasGap(p.Rows, after) || !payload) {
		err = explain(op, o.db.QueryRowContext(ctx, `SELECT pg_current_xact_id()::text`).Scan(&p.Mark))
	}
	if err != nil {
		return outbox.Page{}, err
	}
	return p, nil
}

func hasGap(rows []outbox.Row, after int64) bool {
	for i := range rows {
		if rows[i].Seq != after+1 {
			return true
		}
		after = rows[i].Seq
	}
	return false
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
	marks := make([]uint64, len(gaps))
	for i, g := range gaps {
		mark, err := strconv.ParseUint(g.Mark, 10, 64)
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
	var loaded outbox.Snapshot
	h, err := o.read(ctx, "load the outbox", func(b *pgx.Batch, _ *header) {
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
		return outbox.Snapshot{}, err
	}
	loaded.UUID, loaded.Server, loaded.Recorded, loaded.Head = h.uuid, h.server, h.recorded, h.head
	return loaded, nil
}
