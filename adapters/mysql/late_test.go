package mysql_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/adapters/mysql"
	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/orchestrator/txn"
	"github.com/twostep-mq/twostep/outbox"
)

// eachWay runs a test with values put into text by the driver, and by prepared statements.
func eachWay(t *testing.T, on testServer, test func(t *testing.T, db *sql.DB)) {
	t.Helper()
	for name, parameters := range map[string]string{"text": "interpolateParams=true", "prepared": "interpolateParams=false"} {
		t.Run(name, func(t *testing.T) {
			_, dsn := on.open(t)
			test(t, openDSN(t, with(dsn, parameters)))
		})
	}
}

// TestPublishedLate: rows that wait for the commit are in the transaction for all that anybody can tell.
func TestPublishedLate(t *testing.T) {
	onEachServer(t, func(t *testing.T, on testServer) { eachWay(t, on, testPublishedLate) })
}

func testPublishedLate(t *testing.T, db *sql.DB) {
	ctx := t.Context()
	o := newOutbox(t, db)
	publish := func(tx outbox.Tx, name string) {
		m := messageOf("t")
		m.Key, m.Headers = name, map[string]string{"name": "ä" + name}
		m.Payload = []byte(name)
		noError(t, o.Insert(ctx, tx, m, false))
		copy(m.Payload, "changed afterwards")
	}
	exec := func(tx outbox.Tx, statement string) {
		_, err := tx.ExecContext(ctx, statement)
		noError(t, err)
	}
	noError(t, o.Transact(ctx, func(tx outbox.Tx) error {
		publish(tx, "1")
		var n int
		noError(t, tx.QueryRowContext(ctx, "SELECT COUNT(*) FROM twostep_outbox").Scan(&n))
		if n != 1 {
			t.Errorf("the transaction sees %d rows, want its own", n)
		}
		publish(tx, "2")
		exec(tx, "SAVEPOINT mine")
		publish(tx, "3, rolled back")
		exec(tx, "ROLLBACK TO SAVEPOINT mine")
		for i := range 450 {
			publish(tx, fmt.Sprint("many ", i))
		}
		m := messageOf("t")
		m.Key, m.GID = "guarded", "guarded"
		noError(t, o.Insert(ctx, tx, m, true))
		publish(tx, "last")
		return nil
	}))
	want := []string{"1", "2"}
	for i := range 450 {
		want = append(want, fmt.Sprint("many ", i))
	}
	want = append(want, "guarded", "last")
	p, err := o.Scan(ctx, 0, 1000, true)
	noError(t, err)
	if len(p.Rows) != len(want) {
		t.Fatalf("%d rows, want %d", len(p.Rows), len(want))
	}
	for i, row := range p.Rows {
		if row.Key != want[i] || want[i] != "guarded" && (string(row.Payload) != want[i] || row.Headers["name"] != "ä"+want[i]) {
			t.Fatalf("row %d is %q with %q, want %q", i, row.Key, row.Payload, want[i])
		}
	}
}

// TestLateRowRefused: what the database refuses at the end undoes all of it, also where somebody has swallowed the error before.
func TestLateRowRefused(t *testing.T) {
	onEachServer(t, func(t *testing.T, on testServer) { eachWay(t, on, testLateRowRefused) })
}

func testLateRowRefused(t *testing.T, db *sql.DB) {
	ctx := t.Context()
	o, c := newOutbox(t, db), newConsumer(t, db)
	execAll(t, db, "CREATE TABLE effect (name VARCHAR(64) PRIMARY KEY) ENGINE = InnoDB")
	impossible := func() *broker.Message {
		m := messageOf("t")
		m.ContentType = strings.Repeat("x", 257)
		return m
	}
	for name, after := range map[string]func(tx outbox.Tx){
		"at the commit":     func(outbox.Tx) {},
		"before, swallowed": func(tx outbox.Tx) { _, _ = tx.ExecContext(ctx, "INSERT INTO effect VALUES ('after')") },
		"before a row":      func(tx outbox.Tx) { _ = tx.QueryRowContext(ctx, "SELECT 1").Scan(new(int)) },
	} {
		write := func(tx outbox.Tx) error {
			if _, err := tx.ExecContext(ctx, "INSERT INTO effect VALUES ('before')"); err != nil {
				return err
			}
			if err := o.Insert(ctx, tx, impossible(), false); err != nil {
				return err
			}
			after(tx)
			return nil
		}
		if err := o.Transact(ctx, write); err == nil || errors.Is(err, mysql.ErrEnded) {
			t.Errorf("%s: Transact: %v", name, err)
		}
		tx, err := c.Begin(ctx)
		noError(t, err)
		_, err = tx.Claim(ctx, subscription, []string{"a"}, txn.Success)
		noError(t, err)
		noError(t, write(tx.Tx()))
		if err := tx.Commit(ctx); err == nil {
			t.Errorf("%s: a handler's transaction was committed", name)
		}
		if n := count(t, db, "SELECT (SELECT COUNT(*) FROM effect) + (SELECT COUNT(*) FROM twostep_barrier) + (SELECT COUNT(*) FROM twostep_outbox)"); n != 0 {
			t.Errorf("%s: %d rows stand", name, n)
		}
	}
	noError(t, o.Transact(ctx, func(tx outbox.Tx) error { return o.Insert(ctx, tx, messageOf("t"), false) }))
}

// TestRoundTrips: how many statements a managed transaction costs besides its own, when transactions follow each other.
func TestRoundTrips(t *testing.T) { onEachServer(t, testRoundTrips) }

func testRoundTrips(t *testing.T, on testServer) {
	s := on.startOwn(t)
	db := openDSN(t, s.dsn.FormatDSN())
	migrate(t, db, mysql.Config{})
	execAll(t, db, "CREATE TABLE account (id INT PRIMARY KEY, n INT NOT NULL) ENGINE = InnoDB", "INSERT INTO account VALUES (1, 0)")
	ctx := t.Context()
	o, c := newOutbox(t, db), newConsumer(t, db)
	const times = 50
	statements := func(fn func()) float64 {
		fn()
		questions := func() int {
			var name string
			var n int
			noError(t, db.QueryRowContext(ctx, "SHOW GLOBAL STATUS LIKE 'Questions'").Scan(&name, &n))
			return n
		}
		before := questions()
		for range times {
			fn()
		}
		return float64(questions()-before-1) / times
	}
	business := func(ctx context.Context, tx outbox.Execer) {
		_, err := tx.ExecContext(ctx, "UPDATE account SET n = n + 1 WHERE id = 1")
		noError(t, err)
	}
	want := map[string]map[testServer]float64{
		"Transact": {mariaDB: 2, mySQL: 5}, "own transaction": {mariaDB: 4, mySQL: 4}, "batch": {mariaDB: 3, mySQL: 5},
	}
	for name, got := range map[string]float64{
		"Transact": statements(func() {
			noError(t, o.Transact(ctx, func(tx outbox.Tx) error {
				business(ctx, tx)
				return o.Insert(ctx, tx, messageOf("t"), false)
			}))
		}),
		"own transaction": statements(func() {
			tx, err := db.BeginTx(ctx, nil)
			noError(t, err)
			business(ctx, tx)
			noError(t, o.Insert(ctx, tx, messageOf("t"), false))
			noError(t, tx.Commit())
		}),
		"batch": statements(func() {
			tx, err := c.Begin(ctx)
			noError(t, err)
			_, err = tx.Claim(ctx, subscription, []string{messageOf("t").ID, messageOf("t").ID}, txn.Success)
			noError(t, err)
			noError(t, tx.Commit(ctx))
		}),
	} {
		t.Logf("%s: %.2f statements", name, got)
		if got > want[name][on]+0.2 {
			t.Errorf("%s takes %.2f statements, want %.0f", name, got, want[name][on])
		}
	}
}

// TestLentConnectionsGoBack when nobody needs them, and not all are kept where the pool is bounded.
func TestLentConnectionsGoBack(t *testing.T) { onEachServer(t, testLentConnectionsGoBack) }

func testLentConnectionsGoBack(t *testing.T, on testServer) {
	_, dsn := on.open(t)
	for _, most := range []int{0, 4} {
		db := openDSN(t, dsn)
		db.SetMaxOpenConns(most)
		o := newOutbox(t, db)
		ctx := t.Context()
		results := make(chan error)
		for range 16 {
			go func() {
				var err error
				for range 20 {
					err = errors.Join(err, o.Transact(ctx, func(tx outbox.Tx) error { return o.Insert(ctx, tx, messageOf("t"), false) }))
				}
				results <- err
			}()
		}
		for range 16 {
			noError(t, <-results)
		}
		if kept := db.Stats().InUse; most > 0 && kept > most/2 {
			t.Errorf("%d of %d connections are kept", kept, most)
		}
		for until := time.Now().Add(20 * time.Second); db.Stats().InUse > 0; {
			if time.Now().After(until) {
				t.Fatalf("%d connections are still lent", db.Stats().InUse)
			}
			pause(ctx, 20*time.Millisecond)
		}
		var autocommit bool
		var level string
		isolation := map[testServer]string{mariaDB: "@@tx_isolation", mySQL: "@@transaction_isolation"}[on]
		noError(t, db.QueryRowContext(ctx, "SELECT @@autocommit, "+isolation).Scan(&autocommit, &level))
		if !autocommit || level != "REPEATABLE-READ" {
			t.Errorf("a connection came back with autocommit %v and %s", autocommit, level)
		}
	}
}
