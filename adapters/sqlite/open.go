// Package sqlite keeps outboxes, barriers, parked messages and the registry in SQLite. It implements outbox.Store,
// outbox.RelayStore, topics.Store and topics.RegistryStore on github.com/mattn/go-sqlite3.
//
// Databases are opened with Open, migrated with Migrate, and then given to NewOutbox, NewConsumer or NewRegistry.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	// defaultBusyTimeout is how long a writer waits for other writers.
	defaultBusyTimeout = 10 * time.Second
	// idleConns is how many connections a pool keeps. database/sql's default of two would open and close a connection for
	// nearly every transaction of a busy service.
	idleConns = 64
	// cachedStatements is how many prepared statements a connection keeps.
	cachedStatements = 128
)

// Option changes how Open opens.
type Option func(*options)

type options struct {
	busyTimeout   time.Duration
	mustExist     bool
	commitHook    func()
	statementHook func(string)
}

// BusyTimeout is how long a writer waits for other writers, in this process or another, before its statement fails with
// ErrBusy. The default is 10 s.
func BusyTimeout(d time.Duration) Option { return func(o *options) { o.busyTimeout = d } }

// MustExist makes Open fail when there is no such file instead of making it.
func MustExist() Option { return func(o *options) { o.mustExist = true } }

// WithCommitHook has fn called at each commit of a writing transaction, from the goroutine that commits, before it is on the
// disk: for counting. fn must be quick and must not use the database.
func WithCommitHook(fn func()) Option { return func(o *options) { o.commitHook = fn } }

// WithStatementHook has fn called with the text of each statement before it runs, BEGIN and COMMIT among them, on whichever goroutine:
// for counting. fn must be quick and must not use the database.
func WithStatementHook(fn func(statement string)) Option {
	return func(o *options) { o.statementHook = fn }
}

// Open opens the database file at path, and makes it if it is not there. It is the only way to open a database for this
// package: it sees to what the promises of twostep rest on, on every connection of the pool.
//
//   - WAL with synchronous=FULL: a commit is on the disk before it returns.
//   - Transactions begin IMMEDIATE, so that none fails with BUSY half-way; with sql.TxOptions{ReadOnly: true} they begin
//     deferred, see one snapshot, wait for nobody and refuse to write.
//   - Writers of one process queue in the order they came; writers of different processes try again until the busy
//     timeout, in short steps.
//   - Writing transactions of one process run on one connection, which they share: its page cache stays good. What a transaction
//     does to its connection (PRAGMA, temporary tables, ATTACH) is over when it ends. What a *sql.Conn does outside of one stays, and its
//     transactions then run on its own connection.
//   - A transaction that ended by anything but its Commit or Rollback runs no further statement.
//   - A connection to a file that was replaced is not used again.
func Open(path string, opts ...Option) (*sql.DB, error) {
	o := options{busyTimeout: defaultBusyTimeout}
	for _, opt := range opts {
		opt(&o)
	}
	switch {
	case path == "" || path == ":memory:" || strings.Contains(path, "mode=memory"):
		return nil, errors.New("sqlite: open: a database in memory keeps no message; give the path of a file")
	case strings.HasPrefix(path, "file:") || strings.Contains(path, "?"):
		return nil, fmt.Errorf("sqlite: open %q: give the path of a file, not a DSN; settings are made by Open", path)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("sqlite: open %s: %w", path, err)
	}
	// The first connection may make the file. Later ones may not: a file that was deleted under a running service must
	// not come back empty.
	drv := &fileDriver{path: abs, busyTimeout: o.busyTimeout, commitHook: o.commitHook, statementHook: o.statementHook}
	first, err := drv.dial(context.Background(), !o.mustExist, o.busyTimeout)
	if err != nil {
		return nil, err
	}
	drv.path, err = filepath.EvalSymlinks(abs)
	if err != nil {
		_ = first.inner.Close()
		return nil, fmt.Errorf("sqlite: open %s: %w", path, err)
	}
	if err := first.inner.Close(); err != nil {
		return nil, fmt.Errorf("sqlite: open %s: %w", path, err)
	}
	drv.file = files.get(drv.path)
	drv.file.open()
	db := sql.OpenDB(&connector{drv})
	db.SetMaxIdleConns(idleConns)
	return db, nil
}

// dsn is the form mattn/go-sqlite3 takes: an SQLite URI with pragmas.
func dsn(path string, create bool, busyTimeout time.Duration) string {
	mode := "rw"
	if create {
		mode = "rwc"
	}
	slashed := filepath.ToSlash(path)
	if !strings.HasPrefix(slashed, "/") {
		slashed = "/" + slashed
	}
	return "file:" + (&url.URL{Path: slashed}).EscapedPath() + "?" + url.Values{
		"mode":             {mode},
		"_journal_mode":    {"WAL"},
		"_synchronous":     {"FULL"},
		"_foreign_keys":    {"on"},
		"_busy_timeout":    {fmt.Sprint(busyTimeout.Milliseconds())},
		"_stmt_cache_size": {fmt.Sprint(cachedStatements)},
	}.Encode()
}

// opened returns the driver of a database opened by Open, and refuses any other.
func opened(db *sql.DB) (*fileDriver, error) {
	if db == nil {
		return nil, errors.New("sqlite: no database given (nil)")
	}
	drv, ok := db.Driver().(*fileDriver)
	if !ok {
		return nil, fmt.Errorf("sqlite: this database was opened with the driver %T: open it with sqlite.Open. "+
			"Opened another way it may run with synchronous=NORMAL, and then a relay could publish a message "+
			"whose row a power loss takes back; and its transactions may fail with BUSY half-way", db.Driver())
	}
	return drv, nil
}

// fileExists is for error messages only.
func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
