package mysql_test

import (
	"context"
	"database/sql"
	"testing"

	"github.com/twostep-mq/twostep/adapters/mysql"
	"github.com/twostep-mq/twostep/outbox"
)

func newOutbox(t testing.TB, db *sql.DB) *mysql.Outbox {
	t.Helper()
	o, err := mysql.NewOutbox(t.Context(), db, mysql.Config{})
	noError(t, err)
	return o
}

// insert publishes n rows in a transaction, and commits it, or returns it.
func insert(t testing.TB, db *sql.DB, o *mysql.Outbox, n int) *sql.Tx {
	t.Helper()
	tx, err := db.BeginTx(t.Context(), nil)
	noError(t, err)
	t.Cleanup(func() { _ = tx.Rollback() })
	for range n {
		noError(t, o.Insert(t.Context(), tx, messageOf("t"), false))
	}
	return tx
}

func closedNumbers(gaps []outbox.Gap) map[int64]bool {
	all := map[int64]bool{}
	for _, g := range gaps {
		for n := g.From; n <= g.To; n++ {
			all[n] = true
		}
	}
	return all
}

// TestGapsOfOpenTransactions: among many gaps, those of rolled-back transactions close, and those of open ones stay.
func TestGapsOfOpenTransactions(t *testing.T) { onEachServer(t, testGapsOfOpenTransactions) }

func testGapsOfOpenTransactions(t *testing.T, on testServer) {
	db, _ := on.open(t)
	o := newOutbox(t, db)
	var open []*sql.Tx
	var gaps []outbox.Gap
	isOpen := map[int64]bool{}
	for i := range 40 {
		tx := insert(t, db, o, 1)
		n := int64(2*i + 1)
		gaps = append(gaps, outbox.Gap{From: n, To: n, Age: gapAge})
		if i%7 == 3 {
			open = append(open, tx)
			isOpen[n] = true
		} else {
			noError(t, tx.Rollback())
		}
		noError(t, insert(t, db, o, 1).Commit())
	}
	p, closed, err := o.Probe(t.Context(), gaps, 500)
	noError(t, err)
	got := closedNumbers(closed)
	for _, g := range gaps {
		if got[g.From] == isOpen[g.From] {
			t.Errorf("number %d: open %v, closed %v", g.From, isOpen[g.From], got[g.From])
		}
	}
	if len(p.Rows) != 0 {
		t.Errorf("found %d rows", len(p.Rows))
	}
	for _, tx := range open {
		noError(t, tx.Commit())
	}
	p, closed, err = o.Probe(t.Context(), gaps, 500)
	noError(t, err)
	if len(p.Rows) != len(open) {
		t.Errorf("found %d rows, want %d", len(p.Rows), len(open))
	}
	for n := range closedNumbers(closed) {
		if isOpen[n] {
			t.Errorf("%d was committed, and is closed", n)
		}
	}
}

// TestYoungGapsStayOpen: a number may be given out, and its row not yet in the table.
func TestYoungGapsStayOpen(t *testing.T) { onEachServer(t, testYoungGapsStayOpen) }

func testYoungGapsStayOpen(t *testing.T, on testServer) {
	db, _ := on.open(t)
	o := newOutbox(t, db)
	noError(t, insert(t, db, o, 1).Rollback())
	noError(t, insert(t, db, o, 1).Commit())
	_, closed, err := o.Probe(t.Context(), []outbox.Gap{{From: 1, To: 1, Age: gapAge - 1}}, 10)
	noError(t, err)
	if len(closed) != 0 {
		t.Errorf("closed %v", closed)
	}
}

// TestGapBeforeOpenRow: between a gap and an open transaction's row nothing is left. The gap closes all the same: in a busy outbox there
// always is an open row behind.
func TestGapBeforeOpenRow(t *testing.T) { onEachServer(t, testGapBeforeOpenRow) }

func testGapBeforeOpenRow(t *testing.T, on testServer) {
	db, _ := on.open(t)
	o := newOutbox(t, db)
	noError(t, insert(t, db, o, 3).Rollback())
	insert(t, db, o, 1)
	_, closed, err := o.Probe(t.Context(), []outbox.Gap{{From: 1, To: 3, Age: gapAge}}, 10)
	noError(t, err)
	if len(closedNumbers(closed)) != 3 {
		t.Errorf("closed %v, want 1 to 3", closed)
	}
}

// TestGapOfManyRows: a statement that inserts many rows has taken their numbers before the first. While one of them is locked, none is
// closed.
func TestGapOfManyRows(t *testing.T) { onEachServer(t, testGapOfManyRows) }

func testGapOfManyRows(t *testing.T, on testServer) {
	db, _ := on.open(t)
	o := newOutbox(t, db)
	tx := insert(t, db, o, 2)
	for _, to := range []int64{30, 5000} {
		_, closed, err := o.Probe(t.Context(), []outbox.Gap{{From: 1, To: to, Age: gapAge}}, 10)
		noError(t, err)
		if len(closed) != 0 {
			t.Errorf("1 to %d: closed %v", to, closed)
		}
	}
	noError(t, tx.Rollback())
	other := newOutbox(t, db) // one that has not just found it locked
	for _, to := range []int64{30, 5000} {
		_, closed, err := other.Probe(t.Context(), []outbox.Gap{{From: 1, To: to, Age: gapAge}}, 10)
		noError(t, err)
		if len(closedNumbers(closed)) != int(to) {
			t.Errorf("1 to %d: closed %v", to, closed)
		}
	}
}

// TestCheckpointWaitsForNobody: releasing rows does not wait for senders' open transactions.
func TestCheckpointWaitsForNobody(t *testing.T) { onEachServer(t, testCheckpointWaitsForNobody) }

func testCheckpointWaitsForNobody(t *testing.T, on testServer) {
	db, _ := on.open(t)
	o := newOutbox(t, db)
	ctx := t.Context()
	insert(t, db, o, 2)
	noError(t, insert(t, db, o, 2).Commit())
	insert(t, db, o, 2)
	p, err := o.Scan(ctx, 0, 10, true)
	noError(t, err)
	seen, err := o.Lease(ctx)
	noError(t, err)
	l, err := o.Take(ctx, seen, "r")
	noError(t, err)
	c := outbox.Checkpoint{Server: p.Server}
	for _, row := range p.Rows {
		c.Release = append(c.Release, outbox.RowID{Seq: row.Seq, ID: row.ID})
	}
	// The server would wait for a lock for 50 s.
	short, cancel := context.WithTimeout(ctx, gapAge)
	defer cancel()
	_, err = o.Commit(short, l, c)
	noError(t, err)
	if len(c.Release) != 2 {
		t.Errorf("%d rows released", len(c.Release))
	}
}

// TestTruncated: numbers that are given out again are noticed.
func TestTruncated(t *testing.T) { onEachServer(t, testTruncated) }

func testTruncated(t *testing.T, on testServer) {
	db, _ := on.open(t)
	o := newOutbox(t, db)
	noError(t, insert(t, db, o, 20).Commit())
	before, err := o.Scan(t.Context(), 0, 5, false)
	noError(t, err)
	_, err = db.ExecContext(t.Context(), "TRUNCATE TABLE twostep_outbox")
	noError(t, err)
	noError(t, insert(t, db, o, 2).Commit())
	after, err := o.Scan(t.Context(), 0, 5, false)
	noError(t, err)
	if before.Counter != 20 || after.Counter != 2 {
		t.Errorf("the counter is %d and then %d, want 20 and 2", before.Counter, after.Counter)
	}
}
