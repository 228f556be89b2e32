// Package topicstest has the suites that every consumer's database (Run) and every registry (RunRegistry) passes.
package topicstest

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/orchestrator/txn"
	"github.com/twostep-mq/twostep/topics"
)

// Harness makes databases for the suite and says what they can do.
type Harness struct {
	// Open makes a new, migrated database. It is removed with the test.
	Open func(t *testing.T) Database
	// RawCommitStands: COMMIT as SQL in a handler commits. Otherwise nothing of that transaction may stand.
	RawCommitStands bool
}

// Database is one consumer's database.
type Database struct {
	DB    *sql.DB
	Store topics.Store
	// Another opens the same database once more, as another process would.
	Another func(t *testing.T) Database
}

// Run runs the whole suite for topics.Store.
func Run(t *testing.T, h Harness) {
	for _, group := range []struct {
		name string
		test func(*testing.T, Harness)
	}{
		{"Claim", testClaim},
		{"Transaction", testTransaction},
		{"Park", testPark},
		{"Due", testDue},
		{"Race", testRace},
	} {
		t.Run(group.name, func(t *testing.T) {
			t.Parallel()
			group.test(t, h)
		})
	}
}

const (
	uidA = "019e0000-0000-7000-9000-00000000000a"
	uidB = "019e0000-0000-7000-9000-00000000000b"
)

// patience bounds every wait of the suite.
const patience = 30 * time.Second

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// lastID makes ids that differ and have the form of a UUIDv7.
var lastID atomic.Int64

func newID() string {
	return fmt.Sprintf("019e0000-0000-7000-8000-%012x", lastID.Add(1))
}

func newIDs(n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = newID()
	}
	return ids
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// inTx runs fn in a transaction of the store and commits it.
func inTx(t *testing.T, d Database, fn func(context.Context, topics.StoreTx)) {
	t.Helper()
	ctx := testContext(t)
	tx, err := d.Store.Begin(ctx)
	must(t, err)
	defer func() { _ = tx.Rollback() }()
	fn(ctx, tx)
	must(t, tx.Commit(ctx))
}

// claim claims in a transaction of its own and commits it.
func claim(t *testing.T, d Database, uid string, as txn.Outcome, ids ...string) (before []txn.Outcome) {
	t.Helper()
	inTx(t, d, func(ctx context.Context, tx topics.StoreTx) {
		var err error
		before, err = tx.Claim(ctx, uid, ids, as)
		must(t, err)
	})
	return before
}

// stands reads what stands in the barrier, and writes nothing.
func stands(t *testing.T, d Database, uid string, ids ...string) []txn.Outcome {
	t.Helper()
	ctx := testContext(t)
	tx, err := d.Store.Begin(ctx)
	must(t, err)
	defer func() { _ = tx.Rollback() }()
	before, err := tx.Claim(ctx, uid, ids, txn.Success)
	must(t, err)
	return before
}

func wantOutcomes(t *testing.T, got []txn.Outcome, want ...txn.Outcome) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("outcomes %q, want %q", got, want)
	}
}

// effects makes a business table: name is unique.
func effects(t *testing.T, d Database) {
	t.Helper()
	_, err := d.DB.ExecContext(testContext(t), `CREATE TABLE topicstest_effect (name VARCHAR(64) NOT NULL PRIMARY KEY)`)
	must(t, err)
}

func addEffect(ctx context.Context, tx topics.StoreTx, name string) error {
	_, err := tx.Tx().ExecContext(ctx, fmt.Sprintf(`INSERT INTO topicstest_effect (name) VALUES ('%s')`, name))
	return err
}

func countEffects(t *testing.T, d Database) int {
	t.Helper()
	var n int
	must(t, d.DB.QueryRowContext(testContext(t), `SELECT count(*) FROM topicstest_effect`).Scan(&n))
	return n
}

// at is a moment of the suite's own clock, in milliseconds.
func at(ms int64) time.Time { return time.UnixMilli(1_800_000_000_000 + ms).UTC() }

func parked(uid, key string, state topics.ParkedState, next int64) topics.Parked {
	p := topics.Parked{
		Subscription: uid, State: state, ParkedAt: at(0),
		Message: broker.Message{ID: newID(), Topic: "bank.t", Key: key, ContentType: "application/json", Payload: []byte(`{}`), Time: at(-5)},
	}
	p.Message.GID = p.Message.ID
	if state == topics.ParkedWaiting {
		p.NextAt = at(next)
	}
	return p
}

// park parks messages that were not seen before.
func park(t *testing.T, d Database, ps ...topics.Parked) {
	t.Helper()
	inTx(t, d, func(ctx context.Context, tx topics.StoreTx) {
		for _, p := range ps {
			_, err := tx.Claim(ctx, p.Subscription, []string{p.Message.ID}, txn.Parked)
			must(t, err)
			must(t, tx.Park(ctx, []topics.Parked{p}))
		}
	})
}

// atOnce runs f(0) … f(n-1) at the same time and waits.
func atOnce(n int, f func(i int)) {
	start := make(chan struct{})
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			<-start
			f(i)
		})
	}
	close(start)
	all.Wait()
}
