package sqlite

import (
	"context"
	"database/sql"
	"sync/atomic"

	"github.com/twostep-mq/twostep/outbox"
)

// beginManaged begins a transaction that ends by Commit or Rollback of the *sql.Tx alone: ctx bounds the beginning only,
// and SQL that commits is refused (see tx).
func beginManaged(ctx context.Context, db *sql.DB) (*sql.Tx, error) {
	lifetime, cancel := context.WithCancel(context.WithValue(context.WithoutCancel(ctx), managedKey{}, true))
	stop := context.AfterFunc(ctx, cancel)
	sqlTx, err := db.BeginTx(lifetime, nil)
	if !stop() { // ctx has ended, and with it the transaction
		if err == nil {
			_ = sqlTx.Rollback()
		}
		cancel()
		return nil, ctx.Err()
	}
	if err != nil {
		cancel()
		return nil, err
	}
	return sqlTx, nil
}

// managedTx is the outbox.Tx that Transact and handlers are given.
type managedTx struct {
	tx *sql.Tx
	// over is set when the function it was given to has returned: the transaction may go on without it.
	over atomic.Bool
}

var _ outbox.Tx = (*managedTx)(nil)

// ended is a context that has: database/sql answers it without asking the driver, where only a *sql.Row could say so.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func (m *managedTx) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	if m.over.Load() {
		return nil, sql.ErrTxDone
	}
	return m.tx.ExecContext(ctx, query, args...)
}

func (m *managedTx) PrepareContext(ctx context.Context, query string) (*sql.Stmt, error) {
	if m.over.Load() {
		return nil, sql.ErrTxDone
	}
	return m.tx.PrepareContext(ctx, query)
}

func (m *managedTx) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if m.over.Load() {
		return nil, sql.ErrTxDone
	}
	return m.tx.QueryContext(ctx, query, args...)
}

func (m *managedTx) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	if m.over.Load() {
		return m.tx.QueryRowContext(ended(), query, args...)
	}
	return m.tx.QueryRowContext(ctx, query, args...)
}

func (m *managedTx) Commit() error   { return outbox.ErrManaged }
func (m *managedTx) Rollback() error { return outbox.ErrManaged }
