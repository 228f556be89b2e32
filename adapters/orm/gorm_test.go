package orm_test

import (
	"context"
	"errors"
	"testing"

	"gorm.io/driver/mysql"
	"gorm.io/driver/postgres"
	"gorm.io/driver/sqlite"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"

	"github.com/twostep-mq/twostep/adapters/orm/gormtx"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

// gormAccount is a row of the bank's own table.
type gormAccount struct {
	Name    string `gorm:"primaryKey"`
	Balance int
}

func (gormAccount) TableName() string { return "account" }

// gormBank is a service that works with GORM.
type gormBank struct {
	db  *gorm.DB
	box *outbox.Outbox
}

// Send debits an account and publishes the transfer in one transaction, GORM's own. An error rolls back both.
func (b gormBank) Send(ctx context.Context, t Transfer) error {
	return b.db.WithContext(ctx).Transaction(func(tx *gorm.DB) error {
		account := gormAccount{Name: t.From}
		if err := tx.Model(&account).Update("balance", gorm.Expr("balance - ?", t.Amount)).Error; err != nil {
			return err
		}
		if _, err := b.box.Publish(ctx, gormtx.Tx(tx), TransIn.Message(t)); err != nil {
			return err
		}
		if err := tx.Take(&account).Error; err != nil {
			return err
		}
		if account.Balance < 0 {
			return errOverdrawn
		}
		return nil
	})
}

// Receive is the handler: GORM works in the transaction that holds the barrier row.
func (b gormBank) Receive(ctx context.Context, tx outbox.Tx, m topics.Received[Transfer]) error {
	account := gormAccount{Name: m.Data.To}
	credited := gormtx.DB(ctx, b.db, tx).Model(&account).Update("balance", gorm.Expr("balance + ?", m.Data.Amount))
	if credited.Error == nil && credited.RowsAffected == 0 {
		return topics.Dead(errNoAccount)
	}
	return credited.Error
}

func (b gormBank) Exec(ctx context.Context, tx outbox.Tx, statement string) error {
	return gormtx.DB(ctx, b.db, tx).Exec(statement).Error
}

// openGORM opens GORM on the service's pool.
func openGORM(t *testing.T, d database) *gorm.DB {
	t.Helper()
	dialector := mysql.New(mysql.Config{Conn: d.db})
	switch d.kind {
	case "sqlite":
		dialector = sqlite.New(sqlite.Config{Conn: d.db})
	case "postgres":
		dialector = postgres.New(postgres.Config{Conn: d.db})
	}
	db, err := gorm.Open(dialector, &gorm.Config{Logger: logger.Discard})
	noError(t, err)
	return db
}

func TestGORM(t *testing.T) {
	t.Parallel()
	onEveryDatabase(t, func(t *testing.T, d database) {
		db := openGORM(t, d)
		promises(t, d, func(box *outbox.Outbox) bank { return gormBank{db, box} })
		t.Run("no transaction", func(t *testing.T) { gormWithoutTransaction(t, d, db) })
		t.Run("a transaction within the handler's is a savepoint", func(t *testing.T) { gormSavepoint(t, d, db) })
	})
}

// TestGORMPrepared: GORM may keep prepared statements, and has other types for its transactions then.
func TestGORMPrepared(t *testing.T) {
	t.Parallel()
	onEveryDatabase(t, func(t *testing.T, d database) {
		db := openGORM(t, d).Session(&gorm.Session{PrepareStmt: true})
		promises(t, d, func(box *outbox.Outbox) bank { return gormBank{db, box} })
	})
}

// gormWithoutTransaction: the compiler cannot tell a *gorm.DB that is in a transaction from one that is not; Publish does.
func gormWithoutTransaction(t *testing.T, d database, db *gorm.DB) {
	box := newOutbox(t, d)
	publish := func(db *gorm.DB) error {
		_, err := box.Publish(t.Context(), gormtx.Tx(db), TransIn.Message(Transfer{From: "anna", To: "bert", Amount: 1}))
		return err
	}
	for what, on := range map[string]*gorm.DB{
		"the pool": db, "with prepared statements": db.Session(&gorm.Session{PrepareStmt: true}), "with a context": db.WithContext(t.Context()),
	} {
		if err := publish(on); !errors.Is(err, gormtx.ErrNoTransaction) {
			t.Errorf("%s: %v, want ErrNoTransaction", what, err)
		}
	}
	noError(t, db.Connection(func(conn *gorm.DB) error {
		if err := publish(conn); !errors.Is(err, gormtx.ErrNoTransaction) {
			t.Errorf("a connection: %v, want ErrNoTransaction", err)
		}
		return nil
	}))
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := publish(db.WithContext(ended).Begin()); !errors.Is(err, context.Canceled) {
		t.Errorf("a transaction that did not begin: %v, want its error", err)
	}
	if n := d.count(t, "SELECT COUNT(*) FROM twostep_outbox"); n != 0 {
		t.Errorf("%d messages stand", n)
	}
}

// gormSavepoint: what a handler does in db.Transaction can be taken back without the rest, and Commit is refused.
func gormSavepoint(t *testing.T, d database, db *gorm.DB) {
	box := newOutbox(t, d)
	d.accounts(t)
	refused := errors.New("on second thought")
	noError(t, box.Transact(t.Context(), func(tx outbox.Tx) error {
		joined := gormtx.DB(t.Context(), db, tx)
		noError(t, joined.Create(&gormAccount{Name: "dora", Balance: 1}).Error)
		err := joined.Transaction(func(inner *gorm.DB) error {
			noError(t, inner.Create(&gormAccount{Name: "emil", Balance: 1}).Error)
			return refused
		})
		if !errors.Is(err, refused) {
			t.Errorf("inner transaction: %v", err)
		}
		if err := joined.Commit().Error; !errors.Is(err, outbox.ErrManaged) {
			t.Errorf("commit: %v, want ErrManaged", err)
		}
		return nil
	}))
	if n := d.count(t, "SELECT COUNT(*) FROM account WHERE name IN ('dora', 'emil')"); n != 1 {
		t.Errorf("%d accounts were made, want dora's alone", n)
	}
}
