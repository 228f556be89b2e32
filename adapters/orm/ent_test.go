package orm_test

import (
	"context"
	"errors"
	"testing"

	"entgo.io/ent/dialect"
	entsql "entgo.io/ent/dialect/sql"

	"github.com/twostep-mq/twostep/adapters/orm/enttx"
	"github.com/twostep-mq/twostep/adapters/orm/internal/ent"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

// entBank is a service that works with ent. Its client is generated with the feature sql/execquery.
type entBank struct {
	client  *ent.Client
	dialect string
	box     *outbox.Outbox
}

// Send debits an account and publishes the transfer in one transaction, ent's own.
func (b entBank) Send(ctx context.Context, t Transfer) error {
	tx, err := b.client.Tx(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // after Commit it does nothing
	account, err := tx.Account.UpdateOneID(t.From).AddBalance(-t.Amount).Save(ctx)
	if err != nil {
		return err
	}
	if _, err := b.box.Publish(ctx, tx, TransIn.Message(t)); err != nil {
		return err
	}
	if account.Balance < 0 {
		return errOverdrawn
	}
	return tx.Commit()
}

// Receive is the handler: a client on the transaction that holds the barrier row.
func (b entBank) Receive(ctx context.Context, tx outbox.Tx, m topics.Received[Transfer]) error {
	client := ent.NewClient(ent.Driver(enttx.Driver(b.dialect, tx)))
	err := client.Account.UpdateOneID(m.Data.To).AddBalance(m.Data.Amount).Exec(ctx)
	if ent.IsNotFound(err) {
		return topics.Dead(errNoAccount)
	}
	return err
}

func (b entBank) Exec(ctx context.Context, tx outbox.Tx, statement string) error {
	_, err := ent.NewClient(ent.Driver(enttx.Driver(b.dialect, tx))).ExecContext(ctx, statement)
	return err
}

// openEnt opens ent on the service's pool.
func openEnt(d database) (client *ent.Client, name string) {
	name = map[string]string{"sqlite": dialect.SQLite, "postgres": dialect.Postgres, "mariadb": dialect.MySQL, "mysql": dialect.MySQL}[d.kind]
	return ent.NewClient(ent.Driver(entsql.OpenDB(name, d.db))), name
}

func TestEnt(t *testing.T) {
	t.Parallel()
	onEveryDatabase(t, func(t *testing.T, d database) {
		client, name := openEnt(d)
		promises(t, d, func(box *outbox.Outbox) bank { return entBank{client, name, box} })
		t.Run("a transaction within the handler's is a savepoint", func(t *testing.T) { entSavepoint(t, d, name) })
	})
}

// entSavepoint: what a handler does in a transaction of ent's can be taken back without the rest.
func entSavepoint(t *testing.T, d database, name string) {
	box := newOutbox(t, d)
	d.accounts(t)
	ctx := t.Context()
	noError(t, box.Transact(ctx, func(tx outbox.Tx) error {
		client := ent.NewClient(ent.Driver(enttx.Driver(name, tx)))
		for _, inner := range []struct {
			name   string
			commit bool
		}{{"dora", true}, {"emil", false}} {
			begun, err := client.Tx(ctx)
			noError(t, err)
			noError(t, begun.Account.Create().SetID(inner.name).SetBalance(1).Exec(ctx))
			noError(t, begun.Account.UpdateOneID(inner.name).AddBalance(1).Exec(ctx))
			if inner.commit {
				noError(t, begun.Commit())
			} else {
				noError(t, begun.Rollback())
			}
		}
		if _, err := client.BeginTx(ctx, &entsql.TxOptions{ReadOnly: true}); err == nil {
			t.Error("a transaction within the transaction took options")
		}
		return client.Close()
	}))
	if n := d.count(t, "SELECT COUNT(*) FROM account WHERE name IN ('dora', 'emil')"); n != 1 {
		t.Errorf("%d accounts were made, want dora's alone", n)
	}
	err := box.Transact(ctx, func(tx outbox.Tx) error {
		noError(t, ent.NewClient(ent.Driver(enttx.Driver(name, tx))).Account.DeleteOneID("dora").Exec(ctx))
		return errOverdrawn
	})
	if n := d.count(t, "SELECT COUNT(*) FROM account WHERE name = 'dora'"); n != 1 || !errors.Is(err, errOverdrawn) {
		t.Errorf("%v: dora has %d accounts", err, n)
	}
}
