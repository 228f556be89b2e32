// Package enttx lets a handler use ent on the transaction that it is given. A sender needs none of it: outbox.Publish takes
// the *ent.Tx of a client generated with the feature sql/execquery as it is.
package enttx

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync/atomic"

	"entgo.io/ent/dialect"
	entsql "entgo.io/ent/dialect/sql"

	"github.com/twostep-mq/twostep/outbox"
)

// Driver makes a driver for a generated client out of tx, the transaction that a handler or the function given to Transact has. The name
// is ent's of the database:
//
//	client := ent.NewClient(ent.Driver(enttx.Driver(dialect.Postgres, tx)))
//
// A transaction that ent begins there, for itself or for the caller, is a savepoint: rolled back, it takes back its own changes only, and
// what it commits is committed with tx. ent begins one for each UpdateOne, which costs two round trips; Update().Where(…) has none.
func Driver(name string, tx outbox.Tx) dialect.Driver {
	d := &driver{Conn: entsql.OpenDB(name, nil).Conn, dialect: name}
	d.ExecQuerier = tx
	return d
}

// driver is ent's driver on one transaction.
type driver struct {
	entsql.Conn
	dialect string
	// savepoints counts those that were made, to name them.
	savepoints atomic.Int64
}

var _ dialect.Driver = (*driver)(nil)

func (d *driver) Dialect() string { return d.dialect }

// Close does nothing: the transaction is not ours to end.
func (d *driver) Close() error { return nil }

// Tx makes a savepoint.
func (d *driver) Tx(ctx context.Context) (dialect.Tx, error) {
	s := &savepoint{Conn: d.Conn, ctx: ctx, name: fmt.Sprintf("twostep_ent_%d", d.savepoints.Add(1))}
	if err := s.run("SAVEPOINT "); err != nil {
		return nil, err
	}
	return s, nil
}

// BeginTx makes a savepoint; options cannot be given to it.
func (d *driver) BeginTx(ctx context.Context, opts *entsql.TxOptions) (dialect.Tx, error) {
	if opts != nil && *opts != (sql.TxOptions{}) {
		return nil, errors.New("enttx: the transaction has begun already: begin this one without options")
	}
	return d.Tx(ctx)
}

// savepoint is a transaction within the transaction.
type savepoint struct {
	entsql.Conn
	ctx  context.Context // that it was begun with: Commit and Rollback are not given one
	name string
}

func (s *savepoint) Commit() error   { return s.run("RELEASE SAVEPOINT ") }
func (s *savepoint) Rollback() error { return s.run("ROLLBACK TO SAVEPOINT ") }

func (s *savepoint) run(command string) error {
	_, err := s.ExecContext(s.ctx, command+s.name)
	return err
}
