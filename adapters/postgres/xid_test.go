package postgres_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/adapters/postgres"
	"github.com/twostep-mq/twostep/outbox"
)

// TestCommits: every transaction that writes counts once, none that reads, at once and exactly; on a server of the test's own, where nobody
// else writes.
func TestCommits(t *testing.T) {
	ctx := t.Context()
	s := newServer(t)
	db := pool(t, s.config())
	noError(t, errOf(db.ExecContext(ctx, `ALTER SYSTEM SET autovacuum = off`)))
	noError(t, errOf(db.ExecContext(ctx, `SELECT pg_reload_conf()`)))
	noError(t, postgres.Migrate(ctx, db, postgres.Service, postgres.Config{}))
	notes(t, db)
	box, err := postgres.NewOutbox(ctx, db, postgres.Config{})
	noError(t, err)
	both := &outboxDB{db, box}
	before, err := postgres.Commits(ctx, db)
	noError(t, err)
	want := before
	for range 50 {
		noError(t, errOf(both.insert(ctx, 3))) // Transact
		tx, err := db.BeginTx(ctx, nil)
		noError(t, err)
		noError(t, box.Insert(ctx, tx, message("t"), false))
		noError(t, tx.Commit())
		noError(t, errOf(db.ExecContext(ctx, `INSERT INTO twostep_outbox (topic, payload) VALUES ('t', 'x')`)))
		want += 3
		// What the relay reads, gaps among it, costs none.
		p, err := box.Scan(ctx, 1, 10, true)
		noError(t, err)
		_, _, err = box.Probe(ctx, []outbox.Gap{{From: 1000, To: 1001, Mark: p.Mark, Age: time.Hour}}, 10)
		noError(t, err)
		noError(t, box.Transact(ctx, func(outbox.Tx) error { return nil }))
		got, err := postgres.Commits(ctx, db)
		noError(t, err)
		if got != want {
			t.Fatalf("%d commits, want %d", got-before, want-before)
		}
	}
	// Beyond 32 bits.
	s.kill()
	noError(t, os.Remove(filepath.Join(s.data, "postmaster.pid")))
	if out, err := s.command("pg_resetwal", "-f", "-e", "7", "-D", s.data).CombinedOutput(); err != nil {
		t.Fatalf("pg_resetwal: %v\n%s", err, out)
	}
	s.start()
	later, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var got int64
	waitFor(t, func() bool { got, err = postgres.Commits(later, db); return err == nil }) // the pool's connections are dead
	if got>>32 != 7 || got-7<<32 < want-before {
		t.Errorf("%d commits, want the epoch 7", got)
	}
}
