package mysql_test

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/twostep-mq/twostep/adapters/mysql"
	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/outbox"
)

func messageOf(topic string) *broker.Message {
	id := uuid.Must(uuid.NewV7()).String()
	return &broker.Message{ID: id, GID: id, Topic: topic, ContentType: "application/json", Payload: []byte(`{}`), Time: time.Now()}
}

// writers commit, delay and roll back transactions of 1 to 20 rows until so many rows are committed.
type writers struct {
	db    *sql.DB
	store *mysql.Outbox

	mu        sync.Mutex
	committed map[string]bool
	begun     int
}

func (w *writers) run(ctx context.Context, n, rows int) error {
	failed := make(chan error, n)
	for i := range n {
		go func() { failed <- w.one(ctx, rand.New(rand.NewPCG(7, uint64(i))), rows) }()
	}
	var first error
	for range n {
		if err := <-failed; err != nil && first == nil {
			first = err
		}
	}
	return first
}

func (w *writers) one(ctx context.Context, r *rand.Rand, rows int) error {
	for {
		size := 1 + r.IntN(20)
		w.mu.Lock()
		over := w.begun >= rows
		if !over {
			w.begun += size
		}
		w.mu.Unlock()
		if over {
			return nil
		}
		if err := w.transaction(ctx, r, size); err != nil {
			return err
		}
	}
}

func (w *writers) transaction(ctx context.Context, r *rand.Rand, size int) error {
	tx, err := w.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	var ids []string
	for range size {
		m := messageOf("t")
		if err := w.store.Insert(ctx, tx, m, false); err != nil {
			return err
		}
		ids = append(ids, m.ID)
	}
	switch p := r.IntN(1000); {
	case p < 2:
		pause(ctx, time.Second) // for longer than the reader waits before it closes
	case p < 50:
		pause(ctx, time.Duration(r.IntN(50))*time.Millisecond)
	case p < 80:
		w.mu.Lock()
		w.begun -= size
		w.mu.Unlock()
		return nil // rolled back
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range ids {
		w.committed[id] = true // before the commit: the reader may see it before we know
	}
	return tx.Commit()
}

// reader finds rows as a relay does, and closes gaps sooner: when they are half a second old.
type reader struct {
	store  outbox.RelayStore
	cursor int64
	gaps   map[int64]time.Time // each number by itself: when it was missed
	seen   map[string]int
	closed map[int64]bool
}

func (r *reader) round(ctx context.Context) (found int, err error) {
	p, err := r.store.Scan(ctx, r.cursor, 500, false)
	if err != nil {
		return 0, err
	}
	for _, row := range p.Rows {
		for n := r.cursor + 1; n < row.Seq; n++ {
			r.gaps[n] = time.Now()
		}
		r.cursor = row.Seq
	}
	rows := p.Rows
	var asked []outbox.Gap
	for n, since := range r.gaps {
		g := outbox.Gap{From: n, To: n, Mark: p.Mark, Age: time.Since(since)}
		if g.Age > 500*time.Millisecond {
			g.Age = gapAge
		}
		if asked = append(asked, g); len(asked) == 500 {
			break
		}
	}
	late, closed, err := r.store.Probe(ctx, asked, 500)
	if err != nil {
		return 0, err
	}
	for _, g := range closed {
		for n := g.From; n <= g.To; n++ {
			delete(r.gaps, n)
			r.closed[n] = true
		}
	}
	for _, row := range append(rows, late.Rows...) {
		delete(r.gaps, row.Seq)
		r.seen[row.ID]++
		if r.closed[row.Seq] {
			return 0, fmt.Errorf("row %d came after its gap was closed", row.Seq)
		}
	}
	return len(rows) + len(late.Rows), nil
}

// TestOutOfOrder: numbers are given out when a row is inserted, and rows become visible when their transactions commit. A relay finds
// each committed row once and no other; one that pages by "seq > last" loses some.
func TestOutOfOrder(t *testing.T) { onEachServerAlone(t, testOutOfOrder) }

func testOutOfOrder(t *testing.T, on testServer) {
	rows := 10_000
	if os.Getenv("TWOSTEP_LONG") != "" {
		rows = 100_000
	}
	db, dsn := on.open(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	o, err := mysql.NewOutbox(ctx, db, mysql.Config{})
	noError(t, err)
	theirs, err := mysql.NewOutbox(ctx, openDSN(t, dsn), mysql.Config{})
	noError(t, err)

	w := &writers{db: db, store: o, committed: map[string]bool{}}
	r := &reader{store: theirs, gaps: map[int64]time.Time{}, seen: map[string]int{}, closed: map[int64]bool{}}
	naive, naiveLast := 0, int64(0)
	done := make(chan error, 1)
	go func() { done <- w.run(ctx, 32, rows) }()
	for over := false; ; {
		n, err := r.round(ctx)
		noError(t, err)
		p, err := theirs.Scan(ctx, naiveLast, 500, false)
		noError(t, err)
		if naive += len(p.Rows); len(p.Rows) > 0 {
			naiveLast = p.Rows[len(p.Rows)-1].Seq
		}
		if over && n == 0 && len(p.Rows) == 0 && len(r.gaps) == 0 {
			break
		}
		select {
		case err := <-done:
			noError(t, err)
			over = true
		default:
		}
	}
	for id := range w.committed {
		if r.seen[id] != 1 {
			t.Errorf("committed message %s came %d times", id, r.seen[id])
		}
	}
	if len(r.seen) != len(w.committed) {
		t.Errorf("%d messages came, %d were committed", len(r.seen), len(w.committed))
	}
	if len(w.committed) < rows*9/10 || len(r.closed) == 0 {
		t.Errorf("%d rows committed, %d numbers closed: this tried too little", len(w.committed), len(r.closed))
	}
	if naive == len(w.committed) {
		t.Error("paging by seq > last lost nothing: this test cannot fail")
	}
	t.Logf("%d rows, %d numbers closed; paging by seq > last lost %d", len(w.committed), len(r.closed), len(w.committed)-naive)
}
