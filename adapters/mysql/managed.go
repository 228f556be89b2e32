package mysql

import (
	"context"
	"database/sql"
	"fmt"
	"sync"

	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

// managedTx is the outbox.Tx that Transact and handlers are given.
type managedTx struct {
	mu sync.Mutex
	n  *session
	// over is set when the function it was given to has returned: the transaction may go on without it.
	over bool
	// last is the result of the last query. A connection has at most one open, and nothing else can be sent while it is.
	last *sql.Rows
}

var _ outbox.Tx = (*managedTx)(nil)

// open returns the transaction, unless it has ended, with everything in it that came before.
func (m *managedTx) open(ctx context.Context) (*sql.Tx, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(); err != nil {
		return nil, err
	}
	insert, args := m.n.late.take()
	if insert == "" {
		return m.n.tx, nil
	}
	if _, err := m.n.tx.ExecContext(ctx, insert, args...); err != nil {
		m.n.deadlocked = m.n.deadlocked || is(err, codeDeadlock)
		m.n.failed = explain("insert message", err)
		return nil, m.n.failed
	}
	return m.n.tx, nil
}

func (m *managedTx) usable() error {
	switch {
	case m.over:
		return sql.ErrTxDone
	case m.n.deadlocked:
		// What ran now would run in a new transaction, without what was written before.
		return fmt.Errorf("%w: a deadlock has ended it", ErrEnded)
	case m.n.failed != nil:
		return m.n.failed
	}
	m.n.used = true
	return nil
}

// later takes a row that goes with the next statement, or with the commit.
func (m *managedTx) later(ctx context.Context, insert, row string, payload int, args []any) error {
	m.mu.Lock()
	full := m.n.late.full()
	m.mu.Unlock()
	if full {
		if _, err := m.open(ctx); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(); err != nil {
		return err
	}
	m.n.late.add(insert, row, payload, args)
	return nil
}

// close ends the use of the transaction by the function it was given to, and closes what that has left open.
func (m *managedTx) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.over = true
	if m.last != nil {
		_ = m.last.Close()
		m.last = nil
	}
}

// seen looks at an error that passes through our hands.
func (m *managedTx) seen(err error) error {
	if !tryAgain(err) {
		return err
	}
	if is(err, codeDeadlock) {
		m.mu.Lock()
		m.n.deadlocked = true
		m.mu.Unlock()
	}
	return fmt.Errorf("%w (%w)", topics.ErrTryAgain, err)
}

// ended is a context that has: database/sql answers it without asking the driver, where only a *sql.Row could say so.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func (m *managedTx) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	tx, err := m.open(ctx)
	if err != nil {
		return nil, err
	}
	res, err := tx.ExecContext(ctx, query, args...)
	return res, m.seen(err)
}

func (m *managedTx) PrepareContext(ctx context.Context, query string) (*sql.Stmt, error) {
	tx, err := m.open(ctx)
	if err != nil {
		return nil, err
	}
	stmt, err := tx.PrepareContext(ctx, query)
	return stmt, m.seen(err)
}

func (m *managedTx) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	tx, err := m.open(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := tx.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, m.seen(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last = rows
	return rows, nil
}

func (m *managedTx) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	tx, err := m.open(ctx)
	if err != nil {
		return m.n.tx.QueryRowContext(ended(), query, args...)
	}
	row := tx.QueryRowContext(ctx, query, args...)
	_ = m.seen(row.Err())
	return row
}

func (m *managedTx) Commit() error   { return outbox.ErrManaged }
func (m *managedTx) Rollback() error { return outbox.ErrManaged }
