package outboxtest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/twostep-mq/twostep/outbox"
)

// testRace has writers of both kinds, some of whom roll back, while a relay on another handle scans, probes and releases, and a
// second one takes over now and then. Every committed message must come out once, no other.
func testRace(t *testing.T, h Harness) {
	d := h.Open(t)
	ctx := testContext(t)
	const writers, each = 6, 60
	var (
		mu        sync.Mutex
		committed = map[string]bool{}
	)
	no := errors.New("no")
	var writing sync.WaitGroup
	for w := range writers {
		writing.Go(func() {
			for i := range each {
				m := message("t")
				rollback := (w+i)%7 == 0
				work := func(tx outbox.Execer) error {
					if err := d.Store.Insert(ctx, tx, m, i%2 == 0); err != nil {
						return err
					}
					if rollback {
						return no
					}
					return nil
				}
				if err := writeOne(ctx, d, w%2 == 0, work); rollback != errors.Is(err, no) || !rollback && err != nil {
					t.Errorf("writer %d: %v", w, err)
					return
				}
				if !rollback {
					mu.Lock()
					committed[m.ID] = true
					mu.Unlock()
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { writing.Wait(); close(done) }()

	r := &raceRelay{t: t, h: h, d: d.Another(t), seen: map[string]int{}}
	r.begin()
	for over := false; ; {
		select {
		case <-done:
			over = true
		default:
		}
		if n := r.round(ctx); over && n == 0 {
			break
		}
	}
	for id, n := range r.seen {
		if !committed[id] || n != 1 {
			t.Errorf("message %s came %d times, committed: %v", id, n, committed[id])
		}
	}
	if len(r.seen) != len(committed) || len(scanAll(t, d)) != 0 {
		t.Errorf("%d of %d messages came, %d rows are left", len(r.seen), len(committed), len(scanAll(t, d)))
	}
}

// writeOne runs work in a managed transaction or in one of the caller's own.
func writeOne(ctx context.Context, d Database, managed bool, work func(outbox.Execer) error) error {
	if managed {
		return d.Store.Transact(ctx, func(tx outbox.Tx) error { return work(tx) })
	}
	tx, err := d.DB.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if err := work(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// raceRelay is a relay that keeps only what it must: how far it has scanned, and the gaps.
type raceRelay struct {
	t      *testing.T
	h      Harness
	d      Database
	lease  outbox.Lease
	server string
	cursor int64
	gaps   []outbox.Gap
	rounds int
	seen   map[string]int
}

// begin takes the lease and forgets everything, as a new process would.
func (r *raceRelay) begin() {
	r.t.Helper()
	r.lease = take(r.t, r.d, fmt.Sprint("relay ", r.rounds))
	loaded, err := r.d.Relay.Load(testContext(r.t))
	must(r.t, err)
	r.server, r.cursor, r.gaps = loaded.Server, 0, nil
}

// round scans, then probes, then releases what it found. It returns how much that was.
func (r *raceRelay) round(ctx context.Context) int {
	r.t.Helper()
	if r.rounds++; r.rounds%20 == 0 {
		r.begin()
	}
	p, err := r.d.Relay.Scan(ctx, r.cursor, 50, true)
	must(r.t, err)
	found := p.Rows
	for _, row := range p.Rows {
		if row.Seq > r.cursor+1 {
			r.gaps = append(r.gaps, outbox.Gap{From: r.cursor + 1, To: row.Seq - 1, Mark: p.Mark, Age: r.h.GapAge})
		}
		r.cursor = row.Seq
	}
	late, closed, err := r.d.Relay.Probe(ctx, r.gaps, 50)
	must(r.t, err)
	found = append(found, late.Rows...)
	gone := numbers(closed)
	for _, row := range late.Rows {
		gone[row.Seq] = true
	}
	r.gaps = without(r.gaps, gone)
	if len(found) == 0 {
		return 0
	}
	c := outbox.Checkpoint{Server: r.server, Bits: []outbox.Bits{{Confirmer: "broker", Cursor: r.cursor, Bitmap: []byte("x")}}}
	for _, row := range found {
		r.seen[row.ID]++
		c.Release = append(c.Release, outbox.RowID{Seq: row.Seq, ID: row.ID})
	}
	r.lease, err = r.d.Relay.Commit(ctx, r.lease, c)
	must(r.t, err)
	return len(found)
}

// without takes numbers out of gaps.
func without(gaps []outbox.Gap, gone map[int64]bool) []outbox.Gap {
	var left []outbox.Gap
	for _, g := range gaps {
		for seq := g.From; seq <= g.To; seq++ {
			if !gone[seq] {
				left = append(left, outbox.Gap{From: seq, To: seq, Mark: g.Mark, Age: g.Age})
			}
		}
	}
	return left
}
