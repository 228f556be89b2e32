package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

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
	pending []*pgx.QueuedQuery
	eager   bool
	// rows and row are results that the function may have left open, which would keep the connection from
	// committing.
	rows []*sql.Rows
	row  []*sql.Row
}

var _ outbox.Tx = (*managedTx)(nil)

func (m *managedTx) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	if oneStatement(args) {
		return m.join(ctx, query, args)
	}
	if err := m.usable(ctx, args); err != nil {
		return nil, err
	}
	return m.execute(ctx, query, args)
}

func (m *managedTx) execute(ctx context.Context, query string, args []any) (sql.Result, error) {
	res, err := m.session.conn.ExecContext(ctx, query, args...)
	return res, m.seen(ctx, err)
}

// oneStatement tells whether a statement with such arguments is one and no more, sent the way the connection sends: one without arguments may
// be several, and pgx has arguments that are none but change that.
func oneStatement(args []any) bool {
	if len(args) == 0 {
		return false
	}
	first := args[0]
	if named, ok := first.(sql.NamedArg); ok {
		first = named.Value
	}
	switch first.(type) {
	case pgx.QueryExecMode, pgx.QueryRewriter:
		return false
	}
	return true
}

// join runs a statement in one round trip with what has to be sent before it.
func (m *managedTx) join(ctx context.Context, query string, args []any) (sql.Result, error) {
	if err := m.open(ctx); err != nil {
		return nil, err
	}
	pending := m.takePending()
	proof := m.session.mayEnd(args)
	if len(pending) == 0 && m.session.ready(proof) {
		return m.execute(ctx, query, args)
	}
	inserted := 0
	for _, q := range pending {
		q.Exec(func(pgconn.CommandTag) error { inserted++; return nil })
	}
	plain := slices.Clone(args)
	for i, arg := range plain { // database/sql does the same
		if named, ok := arg.(sql.NamedArg); ok {
			plain[i] = named.Value
		}
	}
	var res rowsAffected
	b := &pgx.Batch{QueuedQueries: pending}
	b.Queue(query, plain...).Exec(func(t pgconn.CommandTag) error { res.tag = t; return nil })
	err := m.session.run(ctx, proof, b.QueuedQueries...)
	if inserted < len(pending) {
		err = explain("insert message", err)
	}
	return res, m.seen(ctx, err)
}

func (m *managedTx) PrepareContext(ctx context.Context, query string) (*sql.Stmt, error) {
	if err := m.usable(ctx, nil); err != nil {
		return nil, err
	}
	m.mu.Lock()
	m.eager = true
	m.mu.Unlock()
	stmt, err := m.session.conn.PrepareContext(ctx, query)
	return stmt, m.seen(ctx, err)
}

func (m *managedTx) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if err := m.usable(ctx, args); err != nil {
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
	if err := m.usable(ctx, args); err != nil && (m.over.Load() || !m.session.begun.Load()) {
		// database/sql answers an ended context without asking the server; only a *sql.Row can say so.
		gone, cancel := context.WithCancel(ctx)
		cancel()
		return m.session.conn.QueryRowContext(gone, query, args...)
	} // else, where that failed so does the query, since the transaction has
	row := m.session.conn.QueryRowContext(ctx, query, args...)
	_ = m.seen(ctx, row.Err())
	m.mu.Lock()
	m.row = append(m.row, row)
	m.mu.Unlock()
	return row
}

func (m *managedTx) Commit() error   { return outbox.ErrManaged }
func (m *managedTx) Rollback() error { return outbox.ErrManaged }

// open refuses a statement that could not succeed. Sent with an ended context it would cost the connection.
func (m *managedTx) open(ctx context.Context) error {
	if m.over.Load() {
		return sql.ErrTxDone
	}
	return ctx.Err()
}

// usable makes the connection ready for a statement with such arguments that goes to it directly: the transaction has begun, nothing is
// pending, and where the statement may end the transaction, its id is known.
func (m *managedTx) usable(ctx context.Context, args []any) error {
	if err := m.open(ctx); err != nil {
		return err
	}
	return m.flush(ctx, m.session.mayEnd(args))
}

// insert puts the insertion of a message off until COMMIT, or until the next statement, so that savepoints mean what they say.
func (m *managedTx) insert(ctx context.Context, query string, args ...any) error {
	if err := m.open(ctx); err != nil {
		return err
	}
	var b pgx.Batch
	b.Queue(query, args...)
	m.mu.Lock()
	m.pending = append(m.pending, b.QueuedQueries...)
	now := m.eager || len(m.pending) >= mostPending
	m.mu.Unlock()
	if now {
		return m.flush(ctx, false)
	}
	return nil
}

// flush begins the transaction and inserts what is pending.
func (m *managedTx) flush(ctx context.Context, proof bool) error {
	pending := m.takePending()
	if len(pending) == 0 && m.session.ready(proof) {
		return nil
	}
	op := "begin"
	if len(pending) > 0 {
		op = "insert message"
	}
	return m.seen(ctx, explain(op, m.session.run(ctx, proof, pending...)))
}

// takePending hands what is pending to whoever sends it.
func (m *managedTx) takePending() []*pgx.QueuedQuery {
	m.mu.Lock()
	defer m.mu.Unlock()
	pending := m.pending
	m.pending = nil
	return pending
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

// failed is the first error of a statement.
func (m *managedTx) failed() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.failure
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
