package sqlite_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/adapters/sqlite"
	"github.com/twostep-mq/twostep/outbox"
)

// notes makes a business table.
func notes(t *testing.T, db *sql.DB) {
	t.Helper()
	_, err := db.ExecContext(t.Context(), `CREATE TABLE note (text TEXT NOT NULL UNIQUE)`)
	noError(t, err)
}

func countNotes(t *testing.T, db *sql.DB) int {
	t.Helper()
	var n int
	noError(t, db.QueryRowContext(t.Context(), `SELECT count(*) FROM note`).Scan(&n))
	return n
}

const addNote = `INSERT INTO note VALUES (?)`

// TestNothingRunsAfterTheEnd: where a transaction has ended by itself, the next statement would commit by itself.
func TestNothingRunsAfterTheEnd(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]string{
		"ROLLBACK":             `ROLLBACK`,
		"a conflict that does": `INSERT OR ROLLBACK INTO note VALUES ('a')`,
	} {
		t.Run(name, func(t *testing.T) {
			db, _ := open(t)
			notes(t, db)
			ctx := t.Context()
			tx, err := db.BeginTx(ctx, nil)
			noError(t, err)
			prepared, err := tx.PrepareContext(ctx, addNote)
			noError(t, err)
			defer func() { _ = prepared.Close() }()
			_, err = tx.ExecContext(ctx, addNote, "a")
			noError(t, err)
			_, _ = tx.ExecContext(ctx, end) // its error is swallowed
			for what, err := range map[string]error{
				"exec":           errOf(tx.ExecContext(ctx, addNote, "b")),
				"prepared":       errOf(prepared.ExecContext(ctx, "c")),
				"query":          tx.QueryRowContext(ctx, addNote+" RETURNING text", "d").Scan(new(string)),
				"prepared query": prepared.QueryRowContext(ctx, "e").Scan(new(string)),
				"begin":          errOf(tx.ExecContext(ctx, "BEGIN")),
				"commit":         tx.Commit(),
			} {
				if err == nil || !strings.Contains(err.Error(), "ended before its Commit") && !errors.Is(err, sql.ErrTxDone) {
					t.Errorf("%s: %v", what, err)
				}
			}
			if n := countNotes(t, db); n != 0 {
				t.Errorf("%d notes", n)
			}
			_, err = db.ExecContext(ctx, addNote, "next") // the next writer gets in
			noError(t, err)
		})
	}
}

func errOf[T any](_ T, err error) error { return err }

// TestFullDisk: SQLite may or may not roll back by itself; either way nothing of it stands, and the error tells.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	db, path := open(t)
	notes(t, db)
	box, err := sqlite.NewOutbox(t.Context(), db)
	noError(t, err)
	db.SetMaxOpenConns(1)
	ctx := t.Context()
	var pages int
	noError(t, db.QueryRowContext(ctx, `PRAGMA page_count`).Scan(&pages))
	_, err = db.ExecContext(ctx, fmt.Sprintf(`PRAGMA max_page_count=%d`, pages+3))
	noError(t, err)
	var inner error
	err = box.Transact(ctx, func(tx outbox.Tx) error {
		_, inner = tx.ExecContext(ctx, addNote, "before")
		noError(t, inner)
		_, inner = tx.ExecContext(ctx, addNote, strings.Repeat("x", 100_000))
		_, _ = tx.ExecContext(ctx, addNote, "after")
		return inner
	})
	for _, err := range []error{inner, err} {
		if !errors.Is(err, sqlite.ErrFull) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "free space") {
			t.Errorf("%v", err)
		}
	}
	if n := countNotes(t, db); n != 0 {
		t.Errorf("%d notes", n)
	}
	noError(t, box.Transact(ctx, func(tx outbox.Tx) error { return errOf(tx.ExecContext(ctx, addNote, "small")) }))
}

// TestLeftOpenTransaction: a BEGIN of one's own, forgotten, must not keep the file locked.
func TestLeftOpenTransaction(t *testing.T) {
	t.Parallel()
	db, _ := open(t, sqlite.BusyTimeout(200*time.Millisecond))
	notes(t, db)
	ctx := t.Context()
	c, err := db.Conn(ctx)
	noError(t, err)
	_, err = c.ExecContext(ctx, `BEGIN IMMEDIATE`)
	noError(t, err)
	_, err = c.ExecContext(ctx, addNote, "forgotten")
	noError(t, err)
	if _, err := db.ExecContext(ctx, addNote, "meanwhile"); err == nil {
		t.Error("two writers at once")
	}
	noError(t, c.Close())
	_, err = db.ExecContext(ctx, addNote, "after")
	noError(t, err)
	if n := countNotes(t, db); n != 1 {
		t.Errorf("%d notes", n)
	}
}

func TestBusy(t *testing.T) {
	t.Parallel()
	db, path := open(t, sqlite.BusyTimeout(50*time.Millisecond))
	other := openAt(t, path)
	patient := openAt(t, path, sqlite.BusyTimeout(time.Minute))
	box, err := sqlite.NewOutbox(t.Context(), db)
	noError(t, err)
	plain := sql.OpenDB(plainConnector{path}) // does not queue: like another process
	defer func() { _ = plain.Close() }()
	ctx := t.Context()
	for name, holder := range map[string]func() func(){
		"same pool": func() func() {
			tx, err := db.BeginTx(ctx, nil)
			noError(t, err)
			return func() { noError(t, tx.Rollback()) }
		},
		"same process": func() func() {
			tx, err := other.BeginTx(ctx, nil)
			noError(t, err)
			return func() { noError(t, tx.Rollback()) }
		},
		"other process": func() func() {
			c, err := plain.Conn(ctx)
			noError(t, err)
			noError(t, errOf(c.ExecContext(ctx, `BEGIN IMMEDIATE`)))
			return func() { noError(t, errOf(c.ExecContext(ctx, `ROLLBACK`))); noError(t, c.Close()) }
		},
	} {
		release := holder()
		err := box.Transact(ctx, func(outbox.Tx) error { return nil })
		if !errors.Is(err, sqlite.ErrBusy) {
			t.Errorf("%s: transact: %v, want ErrBusy", name, err)
		}
		short, cancel := context.WithCancel(ctx)
		time.AfterFunc(5*time.Millisecond, cancel)
		if _, err := patient.BeginTx(short, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: begin cancelled: %v", name, err)
		}
		cancel()
		release()
		noError(t, box.Transact(ctx, func(outbox.Tx) error { return nil }))
	}
}

// TestTransactWithinTransact waits for itself: it must end, with an error that says so.
func TestTransactWithinTransact(t *testing.T) {
	t.Parallel()
	db, _ := open(t, sqlite.BusyTimeout(50*time.Millisecond))
	box, err := sqlite.NewOutbox(t.Context(), db)
	noError(t, err)
	err = box.Transact(t.Context(), func(outbox.Tx) error {
		return box.Transact(t.Context(), func(outbox.Tx) error { return nil })
	})
	if !errors.Is(err, sqlite.ErrBusy) || !strings.Contains(err.Error(), "within a Transact") {
		t.Fatal(err)
	}
	noError(t, box.Transact(t.Context(), func(outbox.Tx) error { return nil }))
}

// TestTransactIsNotInterrupted: a cancelled statement would take everybody's work with it.
func TestTransactIsNotInterrupted(t *testing.T) {
	t.Parallel()
	db, _ := open(t)
	notes(t, db)
	box, err := sqlite.NewOutbox(t.Context(), db)
	noError(t, err)
	ctx := t.Context()
	// A write that takes long enough to be cancelled in its middle.
	const slow = `INSERT INTO note WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000) SELECT 'n' || i FROM n`
	first := make(chan struct{})
	begun := sync.OnceFunc(func() { close(first) })
	runs := 0
	result := make(chan error, 1)
	go func() {
		result <- box.Transact(ctx, func(tx outbox.Tx) error {
			runs++
			begun()
			return errOf(tx.ExecContext(ctx, addNote, "innocent"))
		})
	}()
	<-first
	for _, prepare := range []bool{false, true} {
		mine, cancel := context.WithCancel(ctx)
		err = box.Transact(mine, func(tx outbox.Tx) error {
			time.AfterFunc(5*time.Millisecond, cancel)
			if !prepare {
				return errOf(tx.ExecContext(mine, slow))
			}
			stmt, err := tx.PrepareContext(mine, slow)
			if err != nil {
				return err
			}
			defer func() { _ = stmt.Close() }()
			return errOf(stmt.ExecContext(mine))
		})
		cancel()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("prepared %v: %v, want context.Canceled", prepare, err)
		}
	}
	noError(t, <-result)
	if n := countNotes(t, db); n != 1 || runs != 1 {
		t.Errorf("%d notes, after %d runs of the innocent", n, runs)
	}
}

// TestTransactSharesCommits holds the file while callers queue up; then few commits serve all.
func TestTransactSharesCommits(t *testing.T) {
	t.Parallel()
	commits := 0 // the hook runs under the writer's lock
	db, _ := open(t, sqlite.WithCommitHook(func() { commits++ }))
	notes(t, db)
	box, err := sqlite.NewOutbox(t.Context(), db)
	noError(t, err)
	ctx := t.Context()
	const callers = 64
	results := make(chan error, callers)
	holder, err := db.BeginTx(ctx, nil)
	noError(t, err)
	before := commits
	for i := range callers {
		go func() {
			results <- box.Transact(ctx, func(tx outbox.Tx) error { return errOf(tx.ExecContext(ctx, addNote, fmt.Sprint(i))) })
		}()
	}
	deadline := time.Now().Add(10 * time.Second)
	for sqlite.Waiting(box) < callers-1 { // one of them waits for the file
		if time.Now().After(deadline) {
			t.Fatal("the callers do not queue")
		}
		time.Sleep(time.Millisecond)
	}
	noError(t, holder.Rollback())
	for range callers {
		noError(t, <-results)
	}
	if n := countNotes(t, db); n != callers {
		t.Errorf("%d notes", n)
	}
	if n := commits - before; n > callers/4 {
		t.Errorf("%d commits for %d callers", n, callers)
	}
}

// TestWritersComeInOrder: the queue is fair, whichever pool a writer belongs to.
func TestWritersComeInOrder(t *testing.T) {
	t.Parallel()
	db, path := open(t)
	pools := []*sql.DB{db, openAt(t, path)}
	ctx := t.Context()
	holder, err := db.BeginTx(ctx, nil)
	noError(t, err)
	const writers = 10
	var order []int
	done := make(chan struct{})
	for i := range writers {
		go func() {
			defer func() { done <- struct{}{} }()
			tx, err := pools[i%2].BeginTx(ctx, nil)
			if err != nil {
				t.Error(err)
				return
			}
			order = append(order, i) // one writer at a time
			if err := tx.Commit(); err != nil {
				t.Error(err)
			}
		}()
		deadline := time.Now().Add(10 * time.Second)
		for sqlite.Queued(db) != i+1 {
			if time.Now().After(deadline) {
				t.Fatalf("writer %d does not queue", i)
			}
			time.Sleep(time.Millisecond)
		}
	}
	noError(t, holder.Rollback())
	for range writers {
		<-done
	}
	for i := range order {
		if order[i] != i {
			t.Fatalf("order %v", order)
		}
	}
}
