package sqlite

import (
	"context"
	"database/sql/driver"
	"fmt"
	"os"

	"github.com/mattn/go-sqlite3"
)

// conn is one connection. database/sql uses it from one goroutine at a time.
type conn struct {
	inner *sqlite3.SQLiteConn
	drv   *fileDriver
	file  os.FileInfo
	life  int
	tx    *tx // what BeginTx began, until Commit or Rollback
}

var (
	_ driver.Conn               = (*conn)(nil)
	_ driver.ConnBeginTx        = (*conn)(nil)
	_ driver.ConnPrepareContext = (*conn)(nil)
	_ driver.ExecerContext      = (*conn)(nil)
	_ driver.QueryerContext     = (*conn)(nil)
	_ driver.Pinger             = (*conn)(nil)
	_ driver.SessionResetter    = (*conn)(nil)
	_ driver.Validator          = (*conn)(nil)
)

// walPages is the length of the write-ahead log, in pages of 4 KiB, at which SQLite copies it into the database: with an fsync of each. An
// outbox row triples the pages of a small transaction, and most of them are the same few pages again, which are copied once.
const walPages = "4000"

// setUp notes which file this is, checks that the settings hold, and hangs in the hooks that watch transactions.
func (c *conn) setUp() error {
	file, err := os.Stat(c.drv.path)
	if err != nil {
		return err
	}
	c.file, c.life = file, c.drv.lifeOf(file)
	for _, want := range []struct {
		pragma, value, why string
	}{
		{"journal_mode", "wal", "the file system may not support shared memory (a network file system): use a local disk"},
		{"synchronous", "2", "commits would not survive a power loss"},
		{"encoding", "UTF-8", "identifiers would not be compared byte for byte: make the database without PRAGMA encoding"},
	} {
		got, err := c.readPragma(want.pragma)
		if err != nil {
			return err
		}
		if got != want.value {
			return fmt.Errorf("PRAGMA %s is %s and must be %s: %s", want.pragma, got, want.value, want.why)
		}
	}
	if _, err := c.inner.ExecContext(context.Background(), "PRAGMA wal_autocheckpoint = "+walPages, nil); err != nil {
		return err
	}
	c.inner.RegisterCommitHook(c.onCommit)
	c.inner.RegisterRollbackHook(c.onRollback)
	return nil
}

func (c *conn) readPragma(name string) (string, error) {
	rows, err := c.inner.QueryContext(context.Background(), "PRAGMA "+name, nil)
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

// run executes SQL without arguments, uncached and uninterruptible.
func (c *conn) run(sql string) error {
	_, err := c.inner.ExecContext(context.Background(), sql, nil)
	return err
}

func (c *conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if c.tx != nil {
		return inTx(ctx, c.tx, func(ctx context.Context) (driver.Result, error) {
			return c.exec(ctx, query, args)
		})
	}
	if !c.inner.AutoCommit() { // a BEGIN of the caller's own: it holds its locks already
		return c.exec(ctx, query, args)
	}
	// A single statement is a writer like others and queues with them.
	if err := c.drv.gate.enter(ctx, c.drv.busyTimeout); err != nil {
		return nil, explain("write", c.drv.path, err)
	}
	defer c.drv.gate.leave()
	return c.exec(ctx, query, args)
}

func (c *conn) exec(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	res, err := c.inner.ExecContext(ctx, query, args)
	if err != nil {
		return nil, explainStorage(c.drv.path, err)
	}
	return res, nil
}

func (c *conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	if c.tx != nil {
		return inTx(ctx, c.tx, func(ctx context.Context) (driver.Rows, error) {
			return c.query(ctx, query, args)
		})
	}
	return c.query(ctx, query, args)
}

func (c *conn) query(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	rows, err := c.inner.QueryContext(ctx, query, args)
	if err != nil {
		return nil, explainStorage(c.drv.path, err)
	}
	return rows, nil
}

func (c *conn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	s, err := c.inner.PrepareContext(ctx, query)
	if err != nil {
		return nil, explainStorage(c.drv.path, err)
	}
	inner, ok := s.(*sqlite3.SQLiteStmt)
	if !ok {
		return nil, fmt.Errorf("sqlite: unexpected statement %T", s)
	}
	return &stmt{SQLiteStmt: inner, conn: c}, nil
}

// Prepare and Begin are part of driver.Conn; database/sql calls their successors.
func (c *conn) Prepare(query string) (driver.Stmt, error) {
	return c.PrepareContext(context.Background(), query)
}

func (c *conn) Begin() (driver.Tx, error) {
	return c.BeginTx(context.Background(), driver.TxOptions{})
}

func (c *conn) Ping(ctx context.Context) error { return c.inner.Ping(ctx) }

// ResetSession is called before a pooled connection is used again. One whose file was replaced would go on reading the
// old file, which no longer has a name.
func (c *conn) ResetSession(context.Context) error {
	now, err := os.Stat(c.drv.path)
	if err != nil || !os.SameFile(now, c.file) {
		return driver.ErrBadConn
	}
	return nil
}

// IsValid is called when a connection comes back to the pool. One that still is in a transaction (a BEGIN of the
// caller's own) is closed, which ends it.
func (c *conn) IsValid() bool { return c.tx == nil && c.inner.AutoCommit() }

func (c *conn) Close() error {
	err := c.inner.Close()
	if t := c.tx; t != nil {
		t.readOnly = t.readOnly && err != nil // nothing to reset on a closed connection
		t.close()
	}
	return err
}

// stmt is a prepared statement of the caller's.
type stmt struct {
	*sqlite3.SQLiteStmt
	conn *conn
}

func (s *stmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	exec := func(ctx context.Context) (driver.Result, error) {
		res, err := s.SQLiteStmt.ExecContext(ctx, args)
		if err != nil {
			return nil, explainStorage(s.conn.drv.path, err)
		}
		return res, nil
	}
	if s.conn.tx != nil {
		return inTx(ctx, s.conn.tx, exec)
	}
	return exec(ctx)
}

func (s *stmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	query := func(ctx context.Context) (driver.Rows, error) {
		rows, err := s.SQLiteStmt.QueryContext(ctx, args)
		if err != nil {
			return nil, explainStorage(s.conn.drv.path, err)
		}
		return rows, nil
	}
	if s.conn.tx != nil {
		return inTx(ctx, s.conn.tx, query)
	}
	return query(ctx)
}
