package orm_test

import (
	"context"
	"testing"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/mysqldialect"
	"github.com/uptrace/bun/dialect/pgdialect"
	"github.com/uptrace/bun/dialect/sqlitedialect"
	"github.com/uptrace/bun/schema"

	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

// bunAccount is a row of the bank's own table.
type bunAccount struct {
	bun.BaseModel `bun:"table:account"`
	Name          string `bun:",pk"`
	Balance       int
}

// bunBank is a service that works with bun.
type bunBank struct {
	db  *bun.DB
	box *outbox.Outbox
}

// Send debits an account and publishes the transfer in one transaction, bun's own. Publish is given the *sql.Tx in it: bun.Tx would
// write the values into the statements itself, and knows no placeholders but its own.
func (b bunBank) Send(ctx context.Context, t Transfer) error {
	return b.db.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		account := &bunAccount{Name: t.From}
		if _, err := tx.NewUpdate().Model(account).Set("balance = balance - ?", t.Amount).WherePK().Exec(ctx); err != nil {
			return err
		}
		if _, err := b.box.Publish(ctx, tx.Tx, TransIn.Message(t)); err != nil {
			return err
		}
		if err := tx.NewSelect().Model(account).WherePK().Scan(ctx); err != nil {
			return err
		}
		if account.Balance < 0 {
			return errOverdrawn
		}
		return nil
	})
}

// Receive is the handler: Conn makes a query of bun's run in the transaction that holds the barrier row.
func (b bunBank) Receive(ctx context.Context, tx outbox.Tx, m topics.Received[Transfer]) error {
	account := &bunAccount{Name: m.Data.To}
	credited, err := b.db.NewUpdate().Conn(tx).Model(account).Set("balance = balance + ?", m.Data.Amount).WherePK().Exec(ctx)
	if err != nil {
		return err
	}
	if n, err := credited.RowsAffected(); err != nil || n == 0 {
		return topics.Dead(errNoAccount)
	}
	return nil
}

func (b bunBank) Exec(ctx context.Context, tx outbox.Tx, statement string) error {
	_, err := b.db.NewRaw(statement).Conn(tx).Exec(ctx)
	return err
}

// openBun opens bun on the service's pool.
func openBun(d database) *bun.DB {
	var dialect schema.Dialect = mysqldialect.New()
	switch d.kind {
	case "sqlite":
		dialect = sqlitedialect.New()
	case "postgres":
		dialect = pgdialect.New()
	}
	return bun.NewDB(d.db, dialect)
}

func TestBun(t *testing.T) {
	t.Parallel()
	onEveryDatabase(t, func(t *testing.T, d database) {
		db := openBun(d)
		promises(t, d, func(box *outbox.Outbox) bank { return bunBank{db, box} })
	})
}
