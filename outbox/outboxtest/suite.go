// Package outboxtest has the suite that every database with an outbox passes, and crash points for users' own code.
//
// An adapter runs the suite from its tests:
//
//	func TestOutbox(t *testing.T) {
//		outboxtest.Run(t, outboxtest.Harness{Open: func(t *testing.T) outboxtest.Database { … }})
//	}
package outboxtest

import (
	"context"
	"database/sql"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/outbox"
)

// Harness makes databases for the suite and says what they can do.
type Harness struct {
	// Open makes a new, migrated database. It is removed with the test.
	Open func(t *testing.T) Database
	// OutOfOrder: a row may become visible after one with a higher number. Then the suite tries it.
	OutOfOrder bool
	// GapAge is how old a gap must be before the database may call it closed.
	GapAge time.Duration
	// RawCommitStands: COMMIT as SQL within Transact commits. Otherwise nothing of that function may stand.
	RawCommitStands bool
}

// Database is one database with an outbox.
type Database struct {
	// DB is for business tables and for transactions of the caller's own.
	DB    *sql.DB
	Store outbox.Store
	Relay outbox.RelayStore
	// Another opens the same database once more, as another process would.
	Another func(t *testing.T) Database
	// Restore puts another server under the name, as a failover or a restored backup does, with the same outbox in it. nil: the
	// suite leaves that out.
	Restore func(t *testing.T)
}

// Run runs the whole suite.
func Run(t *testing.T, h Harness) {
	for _, group := range []struct {
		name string
		test func(*testing.T, Harness)
	}{
		{"Insert", testInsert},
		{"Guard", testGuard},
		{"Transact", testTransact},
		{"Lease", testLease},
		{"Rows", testRows},
		{"Gaps", testGaps},
		{"Checkpoint", testCheckpoint},
		{"Race", testRace},
	} {
		t.Run(group.name, func(t *testing.T) {
			t.Parallel()
			group.test(t, h)
		})
	}
}

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

func message(topic string) *broker.Message {
	id := newID()
	return &broker.Message{
		ID: id, GID: id, Topic: topic, ContentType: "application/json", Payload: []byte(`{"n":1}`),
		Time: time.Now().Truncate(time.Millisecond).UTC(),
	}
}

// publish inserts messages in a transaction of their own.
func publish(t *testing.T, d Database, ms ...*broker.Message) {
	t.Helper()
	ctx := testContext(t)
	tx, err := d.DB.BeginTx(ctx, nil)
	must(t, err)
	defer func() { _ = tx.Rollback() }()
	for _, m := range ms {
		must(t, d.Store.Insert(ctx, tx, m, false))
	}
	must(t, tx.Commit())
}

func publishN(t *testing.T, d Database, n int) []*broker.Message {
	t.Helper()
	ms := make([]*broker.Message, n)
	for i := range ms {
		ms[i] = message("bank.test")
	}
	publish(t, d, ms...)
	return ms
}

func scanAll(t *testing.T, d Database) []outbox.Row {
	t.Helper()
	p, err := d.Relay.Scan(testContext(t), 0, 1_000_000, true)
	must(t, err)
	return p.Rows
}

func ids(rows []outbox.Row) []string {
	out := make([]string, len(rows))
	for i, row := range rows {
		out[i] = row.ID
	}
	return out
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func exec(t *testing.T, db outbox.Execer, query string) {
	t.Helper()
	if _, err := db.ExecContext(testContext(t), query); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

func count(t *testing.T, db *sql.DB, query string) int {
	t.Helper()
	var n int
	if err := db.QueryRowContext(testContext(t), query).Scan(&n); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

// effects makes a business table: name is unique.
func effects(t *testing.T, d Database) {
	t.Helper()
	exec(t, d.DB, `CREATE TABLE outboxtest_effect (name VARCHAR(64) NOT NULL PRIMARY KEY)`)
}

func addEffect(ctx context.Context, tx outbox.Execer, name string) error {
	_, err := tx.ExecContext(ctx, fmt.Sprintf(`INSERT INTO outboxtest_effect (name) VALUES ('%s')`, name))
	return err
}
