package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/mattn/go-sqlite3"
)

// link is a connection of SQLite's: a session's own, or the one that a file's writers share.
type link struct {
	inner *sqlite3.SQLiteConn
	drv   *fileDriver // the pool it works for
	file  os.FileInfo // as it was opened
	life  int         // which of the path's files: see dbFile.lifeOf
	tx    *tx         // what BeginTx began on it, until Commit or Rollback
	// altered: somebody changed its settings, attached a database, or made a temporary table. Those belong to the connection.
	altered bool
	broken  bool // reading or writing failed
	ours    bool // a statement of this package runs, not its user's
}

// walPages is the length of the write-ahead log, in pages of 4 KiB, at which SQLite copies it into the database: with an fsync of each. An
// outbox row triples the pages of a small transaction, and most of them are the same few pages again, which are copied once.
const walPages = "4000"

// setUp notes which file this is, checks that the settings hold, and hangs in the hooks that watch transactions.
func (l *link) setUp(path string) (err error) {
	if l.file, err = os.Stat(path); err != nil {
		return err
	}
	for _, want := range []struct {
		pragma, value, why string
	}{
		{"journal_mode", "wal", "the file system may not support shared memory (a network file system): use a local disk"},
		{"synchronous", "2", "commits would not survive a power loss"},
		{"encoding", "UTF-8", "identifiers would not be compared byte for byte: make the database without PRAGMA encoding"},
	} {
		got, err := l.readPragma(want.pragma)
		if err != nil {
			return err
		}
		if got != want.value {
			return fmt.Errorf("PRAGMA %s is %s and must be %s: %s", want.pragma, got, want.value, want.why)
		}
	}
	if err := l.run("PRAGMA wal_autocheckpoint = " + walPages); err != nil {
		return err
	}
	l.inner.RegisterCommitHook(l.onCommit)
	l.inner.RegisterRollbackHook(l.onRollback)
	l.inner.RegisterAuthorizer(l.onPrepare)
	return nil
}

func (l *link) readPragma(name string) (string, error) {
	rows, err := l.inner.QueryContext(context.Background(), "PRAGMA "+name, nil)
	if err != nil {
		return "", err
	}
	defer func() { _ = rows.Close() }()
	values := make([]driver.Value, 1)
	if err := rows.Next(values); err != nil {
		return "", fmt.Errorf("PRAGMA %s: %w", name, err)
	}
	return fmt.Sprint(values[0]), nil
}

// run executes SQL of ours without arguments, uncached and uninterruptible.
func (l *link) run(sql string) error {
	l.tell(sql)
	l.ours = true
	_, err := l.inner.ExecContext(context.Background(), sql, nil)
	l.ours = false
	return l.note(err)
}

// step executes one statement of ours that is executed often: it stays prepared, and returns no rows.
func (l *link) step(sql string) error {
	l.tell(sql)
	rows, err := l.inner.QueryContext(context.Background(), sql, nil) // ExecContext would prepare it each time
	if err == nil {
		err = rows.Close()
	}
	return l.note(err)
}

// tell calls the pool's statement hook.
func (l *link) tell(sql string) {
	if l.drv.statementHook != nil {
		l.drv.statementHook(sql)
	}
}

// note remembers whether an error leaves doubt about the connection, and returns it.
func (l *link) note(err error) error {
	var e sqlite3.Error
	if err != nil && errors.As(err, &e) {
		switch e.Code {
		case sqlite3.ErrIoErr, sqlite3.ErrFull, sqlite3.ErrReadonly, sqlite3.ErrCorrupt, sqlite3.ErrNotADB, sqlite3.ErrCantOpen, sqlite3.ErrNomem:
			l.broken = true
		}
	}
	return err
}

// onCommit is called before a commit; anything but 0 makes it a rollback.
func (l *link) onCommit() int {
	if t := l.tx; t != nil && !t.ending {
		t.ended = true
		if t.managed {
			return 1
		}
	}
	if l.drv.commitHook != nil {
		l.drv.commitHook()
	}
	return 0
}

func (l *link) onRollback() {
	if t := l.tx; t != nil && !t.ending {
		t.ended = true
	}
}

// onPrepare is told what a statement will do, when it is prepared. It allows everything.
func (l *link) onPrepare(op int, what, value, _ string) int {
	switch op {
	case sqlite3.SQLITE_PRAGMA:
		l.altered = l.altered || !l.ours && value != "" && alters(what)
	case sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_CREATE_TEMP_TABLE, sqlite3.SQLITE_CREATE_TEMP_VIEW, sqlite3.SQLITE_CREATE_TEMP_TRIGGER:
		l.altered = true
	}
	return sqlite3.SQLITE_OK
}

// alters reports whether a PRAGMA with an argument may change the connection: others only ask, or change the file.
func alters(pragma string) bool {
	switch strings.ToLower(pragma) {
	case "table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo", "foreign_key_list", "foreign_key_check",
		"integrity_check", "quick_check", "wal_checkpoint", "optimize", "incremental_vacuum", "user_version", "application_id":
		return false
	}
	return true
}
