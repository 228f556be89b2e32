package sqlite_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/adapters/sqlite"
	"github.com/twostep-mq/twostep/outbox"
)

// write commits one statement in a transaction.
func write(ctx context.Context, db interface {
	BeginTx(context.Context, *sql.TxOptions) (*sql.Tx, error)
}, query string, args ...any) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(ctx, query, args...); err != nil {
		return err
	}
	return tx.Commit()
}

func connOf(t *testing.T, db *sql.DB) *sql.Conn {
	t.Helper()
	c, err := db.Conn(t.Context())
	noError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// TestWritersShareAConnection: whichever session and pool a transaction belongs to.
func TestWritersShareAConnection(t *testing.T) {
	t.Parallel()
	db, path := open(t)
	notes(t, db)
	other := openAt(t, path)
	box, err := sqlite.NewOutbox(t.Context(), other)
	noError(t, err)
	ctx := t.Context()
	noError(t, write(ctx, db, addNote, "first"))
	writer := sqlite.Writer(db)
	if writer == nil {
		t.Fatal("no shared connection")
	}
	for i, session := range []*sql.Conn{connOf(t, db), connOf(t, db), connOf(t, other)} {
		noError(t, write(ctx, session, addNote, fmt.Sprint(i)))
	}
	noError(t, box.Transact(ctx, func(tx outbox.Tx) error { return errOf(tx.ExecContext(ctx, addNote, "transact")) }))
	if sqlite.Writer(db) != writer || sqlite.Writer(other) != writer {
		t.Error("the connection has changed")
	}
	if n := countNotes(t, db); n != 5 {
		t.Errorf("%d notes", n)
	}
}

// TestCommitHooksAreThePools: the shared connection tells whoever commits on it.
func TestCommitHooksAreThePools(t *testing.T) {
	t.Parallel()
	var counts [2]atomic.Int64
	db, path := open(t, sqlite.WithCommitHook(func() { counts[0].Add(1) }))
	notes(t, db)
	other := openAt(t, path, sqlite.WithCommitHook(func() { counts[1].Add(1) }))
	before := [2]int64{counts[0].Load(), counts[1].Load()}
	ctx := t.Context()
	for i := range 6 {
		noError(t, write(ctx, []*sql.DB{db, other, other}[i%3], addNote, fmt.Sprint(i)))
	}
	_, err := db.ExecContext(ctx, addNote, "alone")
	noError(t, err)
	if a, b := counts[0].Load()-before[0], counts[1].Load()-before[1]; a != 3 || b != 4 {
		t.Errorf("counted %d and %d commits, want 3 and 4", a, b)
	}
}

// TestCloseClosesTheWriter: SQLite removes the write-ahead log when the last connection of all is closed.
func TestCloseClosesTheWriter(t *testing.T) {
	t.Parallel()
	db, path := open(t)
	notes(t, db)
	other := openAt(t, path)
	ctx := t.Context()
	noError(t, write(ctx, db, addNote, "a"))
	noError(t, db.Close())
	noError(t, write(ctx, other, addNote, "b"))
	tx, err := other.BeginTx(ctx, nil)
	noError(t, err)
	_, err = tx.ExecContext(ctx, addNote, "c")
	noError(t, err)
	noError(t, other.Close()) // does not wait for the transaction
	noError(t, tx.Commit())
	allClosed := func() {
		t.Helper()
		if _, err := os.Stat(path + "-wal"); !os.IsNotExist(err) {
			t.Errorf("a connection is still open: %v", err)
		}
	}
	allClosed()
	again := openAt(t, path)
	noError(t, write(ctx, again, addNote, "d"))
	if n := countNotes(t, again); n != 4 {
		t.Errorf("%d notes", n)
	}
	noError(t, again.Close())
	allClosed()
}

// TestWriterOfAReplacedFile is not used again: what it wrote would be in a file without a name.
func TestWriterOfAReplacedFile(t *testing.T) {
	t.Parallel()
	db, path := open(t)
	notes(t, db)
	ctx := t.Context()
	noError(t, write(ctx, db, addNote, "before"))
	pinned := connOf(t, db) // goes on reading the old file
	replace(t, db, path)
	noError(t, write(ctx, db, addNote, "after"))
	noError(t, write(ctx, pinned, addNote, "of an old session"))
	noError(t, write(ctx, db, addNote, "again"))
	if n := countNotes(t, openAt(t, path)); n != 4 {
		t.Errorf("the file that is there has %d notes", n)
	}
	noError(t, os.Remove(path))
	if err := write(ctx, db, addNote, "gone"); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("deleted: %v", err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the file is there again")
	}
}

// TestRowsDoNotOutliveTheirTransaction: a *sql.Conn can be asked for rows while its transaction runs, and keep them.
func TestRowsDoNotOutliveTheirTransaction(t *testing.T) {
	t.Parallel()
	db, _ := open(t, sqlite.BusyTimeout(time.Second))
	notes(t, db)
	ctx := t.Context()
	noError(t, write(ctx, db, `INSERT INTO note VALUES ('a'), ('b'), ('c')`))
	for _, end := range []func(*sql.Tx) error{(*sql.Tx).Commit, (*sql.Tx).Rollback} {
		session := connOf(t, db)
		tx, err := session.BeginTx(ctx, nil)
		noError(t, err)
		rows, err := session.QueryContext(ctx, `SELECT text FROM note`)
		noError(t, err)
		closed, err := session.QueryContext(ctx, `SELECT text FROM note`) //nolint:rowserrcheck // only opened and closed
		noError(t, err)
		if !rows.Next() || !closed.Next() {
			t.Fatal("no row")
		}
		noError(t, closed.Close()) //nolint:sqlclosecheck // before the end of the transaction
		noError(t, end(tx))
		noError(t, write(ctx, db, `UPDATE note SET text = text || '.'`)) // the next writer is not disturbed
		if rows.Next() {
			t.Error("a row after the end of the transaction")
		}
		if err := rows.Err(); err == nil || !strings.Contains(err.Error(), "has ended") {
			t.Errorf("the end of the rows: %v", err)
		}
		noError(t, rows.Close()) //nolint:sqlclosecheck // before the session is used again
		noError(t, write(ctx, session, `UPDATE note SET text = text || '.'`))
	}
}

// TestSettingsOfASession hold in its transactions, and in nobody else's.
func TestSettingsOfASession(t *testing.T) {
	t.Parallel()
	db, path := open(t)
	ctx := t.Context()
	_, err := db.ExecContext(ctx, `CREATE TABLE parent (id INTEGER PRIMARY KEY); CREATE TABLE child (parent INTEGER REFERENCES parent)`)
	noError(t, err)
	const orphan = `INSERT INTO child VALUES (1)`
	session := connOf(t, db)
	_, err = session.ExecContext(ctx, `PRAGMA foreign_keys = OFF`)
	noError(t, err)
	noError(t, write(ctx, session, orphan))
	if err := write(ctx, db, orphan); err == nil {
		t.Error("foreign keys are not checked in another session")
	}
	session = connOf(t, db)
	_, err = session.ExecContext(ctx, `CREATE TEMP TABLE scratch (id INTEGER)`)
	noError(t, err)
	noError(t, write(ctx, session, `INSERT INTO scratch VALUES (1)`))
	if err := write(ctx, db, `INSERT INTO scratch VALUES (1)`); err == nil {
		t.Error("another session sees the temporary table")
	}
	session = connOf(t, db)
	_, err = session.ExecContext(ctx, `ATTACH ? AS beside`, path+".beside")
	noError(t, err)
	noError(t, write(ctx, session, `CREATE TABLE beside.note (text TEXT)`))
}

// TestSettingsOfATransaction end with it.
func TestSettingsOfATransaction(t *testing.T) {
	t.Parallel()
	db, _ := open(t)
	ctx := t.Context()
	_, err := db.ExecContext(ctx, `CREATE TABLE positive (n INTEGER CHECK (n > 0))`)
	noError(t, err)
	for range 2 {
		noError(t, write(ctx, db, `CREATE TEMP TABLE scratch (id INTEGER)`)) // not there any more the second time
	}
	for _, end := range []func(*sql.Tx) error{(*sql.Tx).Commit, (*sql.Tx).Rollback} {
		tx, err := db.BeginTx(ctx, nil)
		noError(t, err)
		_, err = tx.ExecContext(ctx, `PRAGMA ignore_check_constraints = ON`)
		noError(t, err)
		_, err = tx.ExecContext(ctx, `INSERT INTO positive VALUES (-1)`)
		noError(t, err)
		noError(t, end(tx))
		if err := write(ctx, db, `INSERT INTO positive VALUES (-2)`); err == nil {
			t.Error("the next transaction runs with the settings of the one before")
		}
	}
	noError(t, write(ctx, db, `INSERT INTO positive VALUES (1)`))
	writer := sqlite.Writer(db)
	tx, err := db.BeginTx(ctx, nil)
	noError(t, err)
	for _, asks := range []string{`PRAGMA table_info(positive)`, `PRAGMA user_version`, `SELECT count(*) FROM pragma_index_list('positive')`} {
		noError(t, errOf(tx.ExecContext(ctx, asks)))
	}
	noError(t, tx.Commit())
	if sqlite.Writer(db) != writer {
		t.Error("asking has cost the connection")
	}
}

// TestBeginWithinABegin by hand fails at once; it does not wait for itself.
func TestBeginWithinABegin(t *testing.T) {
	t.Parallel()
	db, _ := open(t)
	notes(t, db)
	ctx := t.Context()
	session := connOf(t, db)
	_, err := session.ExecContext(ctx, `BEGIN IMMEDIATE`)
	noError(t, err)
	if _, err := session.BeginTx(ctx, nil); err == nil || !strings.Contains(err.Error(), "within a transaction") {
		t.Errorf("begin: %v", err)
	}
	_, err = session.ExecContext(ctx, addNote, "by hand")
	noError(t, err)
	_, err = session.ExecContext(ctx, `COMMIT`)
	noError(t, err)
	noError(t, write(ctx, session, addNote, "then"))
	if n := countNotes(t, db); n != 2 {
		t.Errorf("%d notes", n)
	}
}

// TestInterruptedWriter: a statement that is cancelled leaves the connection to the next as it was.
func TestInterruptedWriter(t *testing.T) {
	t.Parallel()
	db, _ := open(t)
	notes(t, db)
	const slow = `INSERT INTO note WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000000) SELECT 'n' || i FROM n`
	for _, begin := range []bool{false, true} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		of := t.Context() // the transaction's; the statement's is ctx
		if begin {
			of = ctx
		}
		tx, err := db.BeginTx(of, nil)
		noError(t, err)
		if _, err := tx.ExecContext(ctx, slow); !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, sql.ErrTxDone) {
			t.Errorf("interrupted: %v", err)
		}
		_ = tx.Rollback()
		cancel()
		for i := range 3 {
			noError(t, write(t.Context(), db, addNote, fmt.Sprint(begin, i)))
		}
	}
	if n := countNotes(t, db); n != 6 {
		t.Errorf("%d notes", n)
	}
}

// TestLostSession: a connection is closed within its transaction. The next writer gets in, and nothing of it stands.
func TestLostSession(t *testing.T) {
	t.Parallel()
	db, _ := open(t, sqlite.BusyTimeout(time.Second))
	notes(t, db)
	ctx := t.Context()
	for _, readOnly := range []bool{false, true} {
		session, err := sqlite.Session(ctx, db)
		noError(t, err)
		_, err = session.(driver.ConnBeginTx).BeginTx(ctx, driver.TxOptions{ReadOnly: readOnly})
		noError(t, err)
		_, err = session.(driver.ExecerContext).ExecContext(ctx, `INSERT INTO note VALUES ('lost')`, nil)
		if (err == nil) == readOnly {
			t.Errorf("read-only %v: %v", readOnly, err)
		}
		noError(t, session.Close())
	}
	noError(t, write(ctx, db, addNote, "kept"))
	if n := countNotes(t, db); n != 1 {
		t.Errorf("%d notes", n)
	}
}

// TestPreparedStatements run where their session does, and count their parameters.
func TestPreparedStatements(t *testing.T) {
	t.Parallel()
	db, _ := open(t)
	notes(t, db)
	ctx := t.Context()
	add, err := db.PrepareContext(ctx, addNote)
	noError(t, err)
	defer func() { _ = add.Close() }()
	find, err := db.PrepareContext(ctx, `SELECT count(*) FROM note WHERE text = :text`)
	noError(t, err)
	defer func() { _ = find.Close() }()
	if _, err := add.ExecContext(ctx); err == nil || !strings.Contains(err.Error(), "expected 1 arguments, got 0") {
		t.Errorf("too few: %v", err)
	}
	_, err = add.ExecContext(ctx, "alone")
	noError(t, err)
	tx, err := db.BeginTx(ctx, nil)
	noError(t, err)
	inTx, findInTx := tx.StmtContext(ctx, add), tx.StmtContext(ctx, find) //nolint:sqlclosecheck // the transaction closes them
	_, err = inTx.ExecContext(ctx, "within")
	noError(t, err)
	for text, want := range map[string]int{"alone": 1, "within": 1, "never": 0} {
		var n int
		noError(t, findInTx.QueryRowContext(ctx, sql.Named("text", text)).Scan(&n))
		if n != want {
			t.Errorf("%s: %d in the transaction, want %d", text, n, want)
		}
	}
	var n int
	noError(t, find.QueryRowContext(ctx, sql.Named("text", "within")).Scan(&n))
	if n != 0 {
		t.Error("a session outside sees what is not committed")
	}
	noError(t, tx.Rollback())
	_, err = db.ExecContext(ctx, `ALTER TABLE note ADD COLUMN more TEXT`)
	noError(t, err)
	if _, err := add.ExecContext(ctx, "late"); err == nil || !strings.Contains(err.Error(), "2 columns") {
		t.Errorf("after the table has changed: %v", err)
	}
	if _, err := db.PrepareContext(ctx, `SELECT nothing FROM note`); err == nil { //nolint:sqlclosecheck // there is none
		t.Error("a wrong statement is prepared")
	}
}

// TestOthersWriteBetween: the shared connection's cache is not trusted further than the file.
func TestOthersWriteBetween(t *testing.T) {
	t.Parallel()
	db, path := open(t)
	notes(t, db)
	plain := sql.OpenDB(plainConnector{path}) // like another process
	defer func() { _ = plain.Close() }()
	ctx := t.Context()
	for i := range 5 {
		noError(t, errOf(plain.ExecContext(ctx, addNote, fmt.Sprint("plain ", i))))
		noError(t, errOf(db.ExecContext(ctx, addNote, fmt.Sprint("alone ", i))))
		noError(t, write(ctx, db, addNote, fmt.Sprint("shared ", i)))
		tx, err := db.BeginTx(ctx, nil)
		noError(t, err)
		var n int
		noError(t, tx.QueryRowContext(ctx, `SELECT count(*) FROM note`).Scan(&n))
		noError(t, tx.Rollback())
		if n != 3*(i+1) {
			t.Fatalf("%d notes in round %d", n, i)
		}
	}
}

// TestWritersOfAllKinds at once, cancelled at any moment: what was committed is there, and nothing else.
func TestWritersOfAllKinds(t *testing.T) {
	t.Parallel()
	db, path := open(t)
	notes(t, db)
	other := openAt(t, path)
	box, err := sqlite.NewOutbox(t.Context(), db)
	noError(t, err)
	prepared, err := other.PrepareContext(t.Context(), addNote)
	noError(t, err)
	defer func() { _ = prepared.Close() }()
	kinds := []func(ctx context.Context, text string) error{
		func(ctx context.Context, text string) error { return write(ctx, db, addNote, text) },
		func(ctx context.Context, text string) error { return write(ctx, other, addNote, text) },
		func(ctx context.Context, text string) error { return errOf(db.ExecContext(ctx, addNote, text)) },
		func(ctx context.Context, text string) error { return errOf(prepared.ExecContext(ctx, text)) },
		func(ctx context.Context, text string) error {
			return box.Transact(ctx, func(tx outbox.Tx) error { return errOf(tx.ExecContext(ctx, addNote, text)) })
		},
		func(ctx context.Context, text string) error { // with settings of its own
			c, err := db.Conn(ctx)
			if err != nil {
				return err
			}
			defer func() { _ = c.Close() }()
			if _, err := c.ExecContext(ctx, `PRAGMA cache_size = -500`); err != nil {
				return err
			}
			return write(ctx, c, addNote, text)
		},
		func(ctx context.Context, text string) error { // rows left open
			c, err := other.Conn(ctx)
			if err != nil {
				return err
			}
			defer func() { _ = c.Close() }()
			tx, err := c.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			defer func() { _ = tx.Rollback() }()
			rows, err := c.QueryContext(ctx, `SELECT text FROM note`) //nolint:rowserrcheck // not read to its end
			if err != nil {
				return err
			}
			defer func() { _ = rows.Close() }()
			_ = rows.Next()
			if _, err := tx.ExecContext(ctx, addNote, text); err != nil {
				return err
			}
			return tx.Commit()
		},
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	state := map[string]bool{} // whether it must be there; those that failed may be
	for worker := range 2 * len(kinds) {
		all.Go(func() {
			for i := range 60 {
				text := fmt.Sprintf("%d.%d", worker, i)
				ctx, cancel := context.WithCancel(t.Context())
				if i%4 == 3 {
					ctx, cancel = context.WithTimeout(ctx, time.Duration(rand.IntN(3000))*time.Microsecond)
				}
				err := kinds[worker%len(kinds)](ctx, text)
				cancel()
				if err != nil && i%4 != 3 {
					t.Errorf("kind %d: %v", worker%len(kinds), err)
				}
				mu.Lock()
				state[text] = err == nil
				mu.Unlock()
			}
		})
	}
	all.Wait()
	rows, err := db.QueryContext(t.Context(), `SELECT text FROM note`)
	noError(t, err)
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var text string
		noError(t, rows.Scan(&text))
		if _, asked := state[text]; !asked {
			t.Errorf("%s was never written", text)
		}
		delete(state, text)
	}
	noError(t, rows.Err())
	for text, committed := range state {
		if committed {
			t.Errorf("%s was committed and is not there", text)
		}
	}
}
