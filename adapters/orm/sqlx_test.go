package orm_test

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/twostep-mq/twostep/adapters/orm/sqlxtx"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

// sqlxAccount is a row of the bank's own table.
type sqlxAccount struct {
	Name    string `db:"name"`
	Balance int    `db:"balance"`
}

// sqlxBank is a service that works with sqlx.
type sqlxBank struct {
	db  *sqlx.DB
	box *outbox.Outbox
}

// Send debits an account and publishes the transfer in one transaction, sqlx's own.
func (b sqlxBank) Send(ctx context.Context, t Transfer) error {
	tx, err := b.db.BeginTxx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // after Commit it does nothing
	if _, err := tx.NamedExecContext(ctx, "UPDATE account SET balance = balance - :amount WHERE name = :from", t); err != nil {
		return err
	}
	if _, err := b.box.Publish(ctx, tx, TransIn.Message(t)); err != nil {
		return err
	}
	var account sqlxAccount
	if err := tx.GetContext(ctx, &account, tx.Rebind("SELECT * FROM account WHERE name = ?"), t.From); err != nil {
		return err
	}
	if account.Balance < 0 {
		return errOverdrawn
	}
	return tx.Commit()
}

// Receive is the handler: sqlx works in the transaction that holds the barrier row.
func (b sqlxBank) Receive(ctx context.Context, tx outbox.Tx, m topics.Received[Transfer]) error {
	joined := sqlxtx.Join(b.db, tx)
	var account sqlxAccount
	err := joined.GetContext(ctx, &account, joined.Rebind("SELECT * FROM account WHERE name = ?"), m.Data.To)
	if errors.Is(err, sql.ErrNoRows) {
		return topics.Dead(errNoAccount)
	}
	if err != nil {
		return err
	}
	_, err = joined.NamedExecContext(ctx, "UPDATE account SET balance = balance + :amount WHERE name = :to", m.Data)
	return err
}

func (b sqlxBank) Exec(ctx context.Context, tx outbox.Tx, statement string) error {
	_, err := sqlxtx.Join(b.db, tx).ExecContext(ctx, statement)
	return err
}

// openSQLX opens sqlx on the service's pool; the driver's name tells it how placeholders are written.
func openSQLX(d database) *sqlx.DB {
	return sqlx.NewDb(d.db, map[string]string{"sqlite": "sqlite3", "postgres": "pgx", "mariadb": "mysql", "mysql": "mysql"}[d.kind])
}

func TestSQLX(t *testing.T) {
	t.Parallel()
	onEveryDatabase(t, func(t *testing.T, d database) {
		db := openSQLX(d)
		promises(t, d, func(box *outbox.Outbox) bank { return sqlxBank{db, box} })
		t.Run("reading", func(t *testing.T) { sqlxReads(t, d, db) })
	})
}

// sqlxReads: Get and Select read what sqlx's own do.
func sqlxReads(t *testing.T, d database, db *sqlx.DB) {
	box := newOutbox(t, d)
	d.accounts(t)
	ctx := t.Context()
	noError(t, box.Transact(ctx, func(tx outbox.Tx) error {
		joined := sqlxtx.Join(db, tx)
		var accounts []sqlxAccount
		noError(t, joined.SelectContext(ctx, &accounts, "SELECT * FROM account ORDER BY name"))
		if !slices.Equal(accounts, []sqlxAccount{{"anna", startBalance}, {"bert", startBalance}}) {
			t.Errorf("accounts %v", accounts)
		}
		var pointers []*sqlxAccount
		noError(t, joined.SelectContext(ctx, &pointers, "SELECT * FROM account ORDER BY name"))
		if len(pointers) != 2 || *pointers[1] != accounts[1] {
			t.Errorf("accounts %v", pointers)
		}
		var names []string
		noError(t, joined.SelectContext(ctx, &names, joined.Rebind("SELECT name FROM account WHERE balance >= ? ORDER BY name"), 0))
		if !slices.Equal(names, []string{"anna", "bert"}) {
			t.Errorf("names %v", names)
		}
		var nothing sql.NullInt64
		noError(t, joined.GetContext(ctx, &nothing, "SELECT MAX(balance) FROM account WHERE name = 'nobody'"))
		if nothing.Valid {
			t.Errorf("the highest of no balances is %d", nothing.Int64)
		}
		var none time.Time
		if err := joined.GetContext(ctx, &none, "SELECT balance FROM account WHERE name = 'nobody'"); !errors.Is(err, sql.ErrNoRows) {
			t.Errorf("%v, want ErrNoRows", err)
		}
		if err := joined.GetContext(ctx, names, "SELECT 1"); err == nil {
			t.Error("what is no pointer was read into")
		}
		if err := joined.SelectContext(ctx, names, "SELECT 1"); err == nil {
			t.Error("what is no pointer to a slice was read into")
		}
		if err := joined.Commit(); !errors.Is(err, outbox.ErrManaged) {
			t.Errorf("commit: %v, want ErrManaged", err)
		}
		return nil
	}))
}
