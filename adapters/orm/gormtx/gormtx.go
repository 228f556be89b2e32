// Package gormtx joins GORM and twostep: Tx lets outbox.Publish join GORM's transaction, and DB lets GORM work in the
// transaction that a handler is given.
package gormtx

import (
	"context"
	"database/sql"
	"errors"

	"gorm.io/gorm"

	"github.com/twostep-mq/twostep/outbox"
)

// ErrNoTransaction: the *gorm.DB is not in a transaction, so a message would be committed by itself.
var ErrNoTransaction = errors.New("gormtx: this *gorm.DB is not in a transaction: publish with the one that db.Transaction or db.Begin gives")

// Tx is the transaction that db is in, as outbox.Publish takes it. It stays GORM's to commit or roll back:
//
//	err := db.Transaction(func(tx *gorm.DB) error {
//		…
//		_, err := box.Publish(ctx, gormtx.Tx(tx), TransIn.Message(t))
//		return err
//	})
//
// If db is in none, Publish fails with ErrNoTransaction; if it has failed already, with its error.
func Tx(db *gorm.DB) outbox.Transaction {
	if db.Error != nil {
		return refused{db.Error}
	}
	if tx, ok := db.Statement.ConnPool.(outbox.Transaction); ok {
		return tx
	}
	return refused{ErrNoTransaction}
}

// refused is no transaction, and says why.
type refused struct{ err error }

func (r refused) ExecContext(context.Context, string, ...any) (sql.Result, error) { return nil, r.err }
func (r refused) Commit() error                                                   { return r.err }
func (r refused) Rollback() error                                                 { return r.err }

// DB is db within tx, the transaction that a handler or the function given to Transact has. GORM begins none of its own there; its
// db.Transaction makes a savepoint, and its Commit and Rollback fail with outbox.ErrManaged. ctx and tx bound its use.
func DB(ctx context.Context, db *gorm.DB, tx outbox.Tx) *gorm.DB {
	joined := db.Session(&gorm.Session{NewDB: true, Context: ctx}) // with a context it has a statement of its own
	joined.Statement.ConnPool = tx
	return joined
}
