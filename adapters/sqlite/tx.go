package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
)

// endedByError is the error that ended a transaction. It is ErrEnded, too, and where its cause is a full or failing disk it
// need not say so: that is explained already.
type endedByError struct{ cause error }

func (e *endedByError) Error() string {
	var storage *storageError
	if errors.As(e.cause, &storage) {
		return e.cause.Error()
	}
	return e.cause.Error() + " (" + ErrEnded.Error() + ")"
}

func (e *endedByError) Unwrap() []error { return []error{e.cause, ErrEnded} }

// managedKey marks the context of a transaction that only this package commits: see beginManaged.
type managedKey struct{}

// tx is one transaction begun by BeginTx.
//
// SQLite tells by hooks when a transaction commits and when it rolls back, which proves more than a savepoint could: the
// hook can refuse. In a managed transaction a COMMIT that is not ours becomes a rollback, and so does every
// statement that would commit by itself after the transaction has gone.
type tx struct {
	conn     *conn
	readOnly bool
	managed  bool
	ending   bool // Commit or Rollback is running
	ended    bool // it ended without them
	closed   bool
	rows     []*txRows // open on the borrowed connection
}

// BeginTx begins IMMEDIATE, or deferred where opts says read-only. Every isolation level is granted: SQLite has only the
// strongest.
func (c *conn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	if c.tx != nil {
		return nil, errors.New("sqlite: begin: this connection is in a transaction already")
	}
	t := &tx{conn: c, readOnly: opts.ReadOnly, managed: ctx.Value(managedKey{}) != nil}
	if t.readOnly {
		if err := c.run("PRAGMA query_only=1; BEGIN"); err != nil {
			_ = c.run("PRAGMA query_only=0")
			return nil, explain("begin", c.drv.path, err)
		}
		c.tx = t
		return t, nil
	}
	if err := c.drv.file.gate.enter(ctx, c.drv.busyTimeout); err != nil {
		return nil, explain("begin", c.drv.path, err)
	}
	err := c.borrow(ctx)
	if err == nil {
		err = explain("begin", c.drv.path, c.beginImmediate(ctx))
	}
	if err != nil {
		c.giveBack()
		c.drv.file.gate.leave()
		return nil, err
	}
	c.tx = t
	return t, nil
}

// beginImmediate waits for writers of other processes in Go, in shorter steps than SQLite's and until ctx ends.
func (c *conn) beginImmediate(ctx context.Context) error {
	if c.home != nil {
		return c.drv.retry(ctx, func() error { return c.step("BEGIN IMMEDIATE") })
	}
	restore := fmt.Sprintf("PRAGMA busy_timeout=%d", c.drv.busyTimeout.Milliseconds())
	err := c.run("PRAGMA busy_timeout=0; BEGIN IMMEDIATE; " + restore)
	if !isBusy(err) {
		return err
	}
	err = c.drv.retry(ctx, func() error { return c.run("BEGIN IMMEDIATE") })
	if restoreErr := c.run(restore); err == nil && restoreErr != nil {
		_ = c.run("ROLLBACK")
		return restoreErr
	}
	return err
}

// inTx runs a statement in an open transaction.
func inTx[T any](ctx context.Context, t *tx, do func(context.Context) (T, error)) (T, error) {
	var none T
	if t.ended {
		return none, ErrEnded
	}
	if t.managed {
		// An interrupted write rolls the whole transaction back, and others may share it.
		if err := ctx.Err(); err != nil {
			return none, err
		}
		ctx = context.WithoutCancel(ctx)
	}
	res, err := do(ctx)
	if err != nil {
		if t.ended {
			err = &endedByError{err}
		}
		return none, err
	}
	return res, nil
}

// Commit commits, or rolls back and says why.
func (t *tx) Commit() error {
	defer t.close()
	if t.ended {
		// A transaction that was begun by hand since then must not be committed.
		if !t.conn.inner.AutoCommit() {
			t.ending = true
			_ = t.conn.step("ROLLBACK")
		}
		return ErrEnded
	}
	t.ending = true
	if err := t.conn.step("COMMIT"); err != nil {
		_ = t.conn.step("ROLLBACK")
		return explain("commit", t.conn.drv.path, err)
	}
	return nil
}

// Rollback rolls back. A transaction that ended before is ErrEnded: whoever rolls back may want to know.
func (t *tx) Rollback() error {
	defer t.close()
	t.ending = true
	if !t.conn.inner.AutoCommit() {
		if err := t.conn.step("ROLLBACK"); err != nil {
			return explain("roll back", t.conn.drv.path, err)
		}
	}
	if t.ended {
		return ErrEnded
	}
	return nil
}

// close lets the next writer in.
func (t *tx) close() {
	if t.closed {
		return
	}
	t.closed = true
	c := t.conn
	c.tx = nil
	if t.readOnly {
		_ = c.run("PRAGMA query_only=0")
		return
	}
	for _, r := range t.rows {
		r.cut()
	}
	c.giveBack()
	c.drv.file.gate.leave()
}
