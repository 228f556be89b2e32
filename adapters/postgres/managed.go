package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5"

	"github.com/twostep-mq/twostep/outbox"
)

// mostPending bounds the messages that wait in memory.
const mostPending = 50

// managedTx is the outbox.Tx that Transact and handlers are given.
type managedTx struct {
	session *session
	// over is set when the function it was given to has returned.
	over atomic.Bool

	mu sync.Mutex
	// failure is the first error of a statement: after it PostgreSQL refuses all others of the transaction.
	failure error
	// pending are messages to insert. They go with the next statement or with COMMIT, which saves each a round trip. eager: a prepared
	// statement is about, which does not come by here.
	pending *pgx.Batch
	eager   bool
	// rows and row are results that the function may have left open, which would keep the connection from
	// committing.
	rows []*sql.Rows
	row  []*sql.Row
}

var _ outbox.Tx = (*managedTx)(nil)

func (m *managedTx) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	if err := m.usable(ctx); err != nil {
		return nil, err
	}
	res, err := m.session.conn.ExecContext(ctx, query, args...)
	return res, m.seen(ctx, err)
}

func (m *managedTx) PrepareContext(ctx context.Context, query string) (*sql.Stmt, error) {
	if err := m.usable(ctx); err != nil {
		return nil, err
	}
	m.mu.Lock()
	m.eager = true
	m.mu.Unlock()
	stmt, err := m.session.conn.PrepareContext(ctx, query)
	return stmt, m.seen(ctx, err)
}

func (m *managedTx) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if err := m.usable(ctx); err != nil {
		return nil, err
	}
	rows, err := m.session.conn.QueryContext(ctx, query, args...) // the caller closes them, and finish what is left
	if rows != nil {
		m.mu.Lock()
		m.rows = append(m.rows, rows)
		m.mu.Unlock()
	}
	return rows, m.seen(ctx, err)
}

func (m *managedTx) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	if m.over.Load() {
		// database/sql answers an ended context without asking the server; only a *sql.Row can say so.
		gone, cancel := context.WithCancel(ctx)
		cancel()
		return m.session.conn.QueryRowContext(gone, query, args...)
	}
	_ = m.flush(ctx) // where it fails so does the query, since the transaction has
	row := m.session.conn.QueryRowContext(ctx, query, args...)
	_ = m.seen(ctx, row.Err())
	m.mu.Lock()
	m.row = append(m.row, row)
	m.mu.Unlock()
	return row
}

func (m *managedTx) Commit() error   { return outbox.ErrManaged }
func (m *managedTx) Rollback() error { return outbox.ErrManaged }

// usable refuses a statement that could not succeed. Sent with an ended context it would cost the connection.
func (m *managedTx) usable(ctx context.Context) error {
	if m.over.Load() {
		return sql.ErrTxDone
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return m.flush(ctx)
}

// insert puts the insertion of a message off until COMMIT, or until the next statement, so that savepoints mean what they say.
func (m *managedTx) insert(ctx context.Context, query string, args ...any) error {
	if m.over.Load() {
		return sql.ErrTxDone
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	if m.pending == nil {
		m.pending = &pgx.Batch{}
	}
	m.pending.Queue(query, args...)
	now := m.eager || m.pending.Len() >= mostPending
	m.mu.Unlock()
	if now {
		return m.flush(ctx)
	}
	return nil
}

// flush inserts what is pending.
func (m *managedTx) flush(ctx context.Context) error {
	m.mu.Lock()
	b := m.pending
	m.pending = nil
	m.mu.Unlock()
	if b == nil {
		return nil
	}
	return m.seen(ctx, explain("insert message", m.session.batch(ctx, b)))
}

// takePending hands what is pending to whoever commits.
func (m *managedTx) takePending() *pgx.Batch {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := m.pending
	m.pending = nil
	if b == nil {
		return &pgx.Batch{}
	}
	return b
}

// seen notes a statement's error, and tells what means "try again".
func (m *managedTx) seen(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		if !errors.Is(err, ctx.Err()) {
			err = fmt.Errorf("%w: %w", ctx.Err(), err)
		}
	case m.session.pg.IsClosed() && !tryAgain(err):
		err = asTryAgain(&lostError{err})
	default:
		err = asTryAgain(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failure == nil {
		m.failure = err
	}
	return err
}

// lostError is an error that came with the loss of the connection.
type lostError struct{ cause error }

func (e *lostError) Error() string   { return "the connection was lost: " + e.cause.Error() }
func (e *lostError) Unwrap() []error { return []error{e.cause, sql.ErrConnDone} }

// finish ends the function's part: no statement runs any more, and no result is open.
func (m *managedTx) finish() {
	m.over.Store(true)
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, rows := range m.rows {
		_ = rows.Close()
	}
	for _, row := range m.row {
		_ = row.Scan() // closes; one that was read already says so, which does not matter
	}
	m.rows, m.row = nil, nil
}
