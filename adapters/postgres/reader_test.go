package postgres_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/twostep-mq/twostep/adapters/postgres"
	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/outbox"
)

func message(topic string) *broker.Message {
	id := uuid.Must(uuid.NewV7()).String()
	return &broker.Message{ID: id, GID: id, Topic: topic, ContentType: "application/json", Payload: []byte(`{"n":1}`), Time: time.Now()}
}

// reader is a relay that keeps only what it must: how far it has scanned, and the gaps. It calls every gap old, so that nothing but
// the transactions' ids keeps one open.
type reader struct {
	t      *testing.T
	box    *postgres.Outbox
	lease  outbox.Lease
	server string
	cursor int64
	gaps   []outbox.Gap
	// seen counts how often a message came; naive holds those that a reader by "seq > last" gets.
	seen, naive map[string]int
	keep        bool // release nothing
}

func newReader(t *testing.T, box *postgres.Outbox) *reader {
	t.Helper()
	r := &reader{t: t, box: box, seen: map[string]int{}, naive: map[string]int{}}
	noError(t, r.begin(t.Context()))
	return r
}

// begin takes the lease and forgets everything, as a new process would.
func (r *reader) begin(ctx context.Context) error {
	seen, err := r.box.Lease(ctx)
	if err != nil {
		return err
	}
	if r.lease, err = r.box.Take(ctx, seen, "reader"); err != nil {
		return err
	}
	loaded, err := r.box.Load(ctx)
	if err != nil {
		return err
	}
	r.server, r.cursor, r.gaps = loaded.Server, 0, nil
	return nil
}

// round scans, then probes, then releases what it found. It returns how much that was.
func (r *reader) round(ctx context.Context) (int, error) {
	p, err := r.box.Scan(ctx, r.cursor, 500, true)
	if err != nil {
		return 0, err
	}
	if p.Server != r.server {
		return 0, outbox.ErrServerChanged
	}
	found := p.Rows
	for _, row := range p.Rows {
		if row.Seq > r.cursor+1 {
			r.gaps = append(r.gaps, outbox.Gap{From: r.cursor + 1, To: row.Seq - 1, Mark: p.Mark, Age: 10 * time.Second})
		}
		r.cursor = row.Seq
		r.naive[row.ID]++
	}
	late, closed, err := r.box.Probe(ctx, r.gaps, 500)
	if err != nil {
		return 0, err
	}
	if late.Server != r.server {
		return 0, outbox.ErrServerChanged
	}
	found = append(found, late.Rows...)
	for _, row := range late.Rows {
		r.fill(row.Seq, row.Seq)
	}
	for _, g := range closed {
		r.fill(g.From, g.To)
	}
	c := outbox.Checkpoint{Server: r.server, Bits: []outbox.Bits{{Confirmer: outbox.BrokerConfirmer, Cursor: r.cursor, Bitmap: []byte("x")}}}
	for _, row := range found {
		if !r.keep {
			c.Release = append(c.Release, outbox.RowID{Seq: row.Seq, ID: row.ID})
		}
	}
	if len(found) == 0 {
		return 0, nil
	}
	if r.lease, err = r.box.Commit(ctx, r.lease, c); err != nil {
		return 0, err
	}
	for _, row := range found {
		r.seen[row.ID]++
	}
	return len(found), nil
}

// fill takes numbers out of the gaps.
func (r *reader) fill(from, to int64) {
	var left []outbox.Gap
	for _, g := range r.gaps {
		if to < g.From || from > g.To {
			left = append(left, g)
			continue
		}
		if g.From < from {
			left = append(left, outbox.Gap{From: g.From, To: from - 1, Mark: g.Mark, Age: g.Age})
		}
		if to < g.To {
			left = append(left, outbox.Gap{From: to + 1, To: g.To, Mark: g.Mark, Age: g.Age})
		}
	}
	r.gaps = left
}

// until runs rounds until done says so.
func (r *reader) until(done func() bool) {
	r.t.Helper()
	deadline := time.Now().Add(patience)
	for !done() {
		if time.Now().After(deadline) {
			r.t.Fatalf("not done after %v: %d messages came, cursor %d, gaps %v", patience, len(r.seen), r.cursor, r.gaps)
		}
		_, err := r.round(r.t.Context())
		noError(r.t, err)
	}
}

const patience = 60 * time.Second

func newOutbox(t *testing.T) (*postgres.Outbox, *outboxDB) {
	t.Helper()
	db, _ := open(t, extended)
	box, err := postgres.NewOutbox(t.Context(), db, postgres.Config{})
	noError(t, err)
	return box, &outboxDB{DB: db, box: box}
}

// insert publishes n messages in one transaction and returns their ids.
func (d *outboxDB) insert(ctx context.Context, n int) (ids []string, err error) {
	err = d.box.Transact(ctx, func(tx outbox.Tx) error {
		for range n {
			m := message("bank.t")
			if err := d.box.Insert(ctx, tx, m, false); err != nil {
				return err
			}
			ids = append(ids, m.ID)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("insert: %w", err)
	}
	return ids, nil
}
