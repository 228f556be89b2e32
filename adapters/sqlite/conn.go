package sqlite

import (
	"context"
	"database/sql/driver"
	"os"
)

// conn is what database/sql takes for a connection, and uses from one goroutine at a time: a session. It has a connection to the file
// of its own, and writing transactions borrow the one that the file's writers share.
type conn struct {
	*link       // what statements run on
	home  *link // the session's own while it has borrowed another; else nil
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

// borrow makes the session use the connection that writers share; it is in at the gate. A session whose own connection is altered, or in
// a transaction begun by hand, goes on with that: its statements may rely on it.
func (c *conn) borrow(ctx context.Context) error {
	if c.altered || !c.inner.AutoCommit() {
		return nil
	}
	w := c.drv.file.take()
	if w != nil && !os.SameFile(w.file, c.file) {
		// One of the two is of a file that is not there any more.
		if now, err := os.Stat(c.drv.path); err != nil || !os.SameFile(w.file, now) {
			_ = w.inner.Close()
			w = nil
		}
	}
	if w == nil {
		var err error
		// It waits for writers of other processes in Go, not in SQLite.
		if w, err = c.drv.dial(ctx, false, 0); err != nil {
			return err
		}
	}
	w.drv = c.drv
	c.home, c.link = c.link, w
	return nil
}

// giveBack returns what borrow borrowed. What its transaction altered ends with it: the next writer has a right to a connection like any
// other, and to one that works.
func (c *conn) giveBack() {
	if c.home == nil {
		return
	}
	w := c.link
	c.link, c.home = c.home, nil
	if w.altered || w.broken || !w.inner.AutoCommit() {
		_ = w.inner.Close()
		return
	}
	c.drv.file.put(w)
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
	// A single statement is a writer like others and queues with them. It runs on the session's own connection: it may be one that
	// means the connection (PRAGMA, BEGIN), or be followed by SELECT last_insert_rowid().
	if err := c.drv.file.gate.enter(ctx, c.drv.busyTimeout); err != nil {
		return nil, explain("write", c.drv.path, err)
	}
	defer c.drv.file.gate.leave()
	return c.exec(ctx, query, args)
}

func (c *conn) exec(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	c.tell(query)
	res, err := c.inner.ExecContext(ctx, query, args)
	if err != nil {
		return nil, explainStorage(c.drv.path, c.note(err))
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
	c.tell(query)
	rows, err := c.inner.QueryContext(ctx, query, args)
	if err != nil {
		return nil, explainStorage(c.drv.path, c.note(err))
	}
	if c.home != nil {
		return c.tx.watch(rows)
	}
	return rows, nil
}

// PrepareContext looks whether the statement is right. Which connection it will run on is not known yet; each keeps the statements it
// ran prepared.
func (c *conn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	s, err := c.inner.PrepareContext(ctx, query)
	if err != nil {
		return nil, explainStorage(c.drv.path, c.note(err))
	}
	inputs := s.NumInput()
	if err := s.Close(); err != nil {
		return nil, err
	}
	return &stmt{conn: c, query: query, inputs: inputs}, nil
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
func (c *conn) IsValid() bool { return c.tx == nil && !c.broken && c.inner.AutoCommit() }

func (c *conn) Close() error {
	if t := c.tx; t != nil {
		_ = t.Rollback()
	}
	return c.inner.Close()
}

// stmt is a prepared statement of the caller's: it runs where its session's statements run.
type stmt struct {
	conn   *conn
	query  string
	inputs int
}

var (
	_ driver.StmtExecContext  = (*stmt)(nil)
	_ driver.StmtQueryContext = (*stmt)(nil)
)

func (s *stmt) NumInput() int { return s.inputs }
func (s *stmt) Close() error  { return nil }

func (s *stmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	return s.conn.ExecContext(ctx, s.query, args)
}

func (s *stmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return s.conn.QueryContext(ctx, s.query, args)
}

// Exec and Query are part of driver.Stmt; database/sql calls their successors.
func (s *stmt) Exec(args []driver.Value) (driver.Result, error) {
	return s.ExecContext(context.Background(), named(args))
}

func (s *stmt) Query(args []driver.Value) (driver.Rows, error) {
	return s.QueryContext(context.Background(), named(args))
}

func named(args []driver.Value) []driver.NamedValue {
	values := make([]driver.NamedValue, len(args))
	for i, v := range args {
		values[i] = driver.NamedValue{Ordinal: i + 1, Value: v}
	}
	return values
}
