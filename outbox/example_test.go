package outbox_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/twostep-mq/twostep/adapters/sqlite"
	"github.com/twostep-mq/twostep/outbox"
)

// exampleBank is a service's database with an account and an outbox, in a temporary folder.
func exampleBank(ctx context.Context) (db *sql.DB, box *outbox.Outbox, remove func()) {
	folder, err := os.MkdirTemp("", "bank-")
	must(err)
	db, err = sqlite.Open(filepath.Join(folder, "bank.db"))
	must(err)
	must(sqlite.Migrate(ctx, db, sqlite.Service))
	if _, err := db.ExecContext(ctx, `CREATE TABLE account (name TEXT PRIMARY KEY, balance INTEGER CHECK (balance >= 0)); INSERT INTO account VALUES ('anna', 100)`); err != nil {
		panic(err)
	}
	store, err := sqlite.NewOutbox(ctx, db)
	must(err)
	box, err = outbox.New(ctx, store, outbox.Config{})
	must(err)
	return db, box, func() { _, _ = db.Close(), os.RemoveAll(folder) }
}

// waiting says how much money there is and how many messages wait for a relay.
func waiting(ctx context.Context, db *sql.DB) string {
	var balance, rows int
	err := db.QueryRowContext(ctx, `SELECT (SELECT balance FROM account), (SELECT count(*) FROM twostep_outbox)`).Scan(&balance, &rows)
	must(err)
	return fmt.Sprintf("balance %d, messages %d", balance, rows)
}

// The message is part of the sender's own transaction: it exists if and only if that commits.
func ExampleOutbox_Publish() {
	ctx := context.Background()
	db, box, remove := exampleBank(ctx)
	defer remove()

	transfer := func(amount int) error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }()
		message := outbox.Message{Topic: "bank.in", Key: "bert", Payload: fmt.Appendf(nil, `{"to":"bert","amount":%d}`, amount)}
		if _, err := box.Publish(ctx, tx, message); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE account SET balance = balance - ? WHERE name = 'anna'`, amount); err != nil {
			return errors.New("anna has too little")
		}
		return tx.Commit()
	}

	fmt.Println(transfer(30), "-", waiting(ctx, db))
	fmt.Println(transfer(90), "-", waiting(ctx, db))
	// Output:
	// <nil> - balance 70, messages 1
	// anna has too little - balance 70, messages 1
}

// A gid of the caller's makes publishing idempotent.
func ExampleOutbox_Publish_gid() {
	ctx := context.Background()
	db, box, remove := exampleBank(ctx)
	defer remove()

	order := outbox.Message{Topic: "bank.in", GID: "order-17", Payload: []byte(`{"to":"bert","amount":30}`)}
	for range 2 {
		err := box.Transact(ctx, func(tx outbox.Tx) error {
			_, err := box.Publish(ctx, tx, order)
			return err
		})
		fmt.Println("duplicate:", errors.Is(err, outbox.ErrDuplicate), "-", waiting(ctx, db))
	}
	// Output:
	// duplicate: false - balance 100, messages 1
	// duplicate: true - balance 100, messages 1
}

// Transact begins, commits and rings the relay. Concurrent calls share commits, so it is the faster way.
func ExampleOutbox_Transact() {
	ctx := context.Background()
	db, box, remove := exampleBank(ctx)
	defer remove()

	transfer := func(amount int) error {
		return box.Transact(ctx, func(tx outbox.Tx) error {
			if _, err := tx.ExecContext(ctx, `UPDATE account SET balance = balance - ? WHERE name = 'anna'`, amount); err != nil {
				return errors.New("anna has too little") // an error rolls back
			}
			_, err := box.Publish(ctx, tx, outbox.Message{Topic: "bank.in", Payload: fmt.Appendf(nil, `{"to":"bert","amount":%d}`, amount)})
			return err
		})
	}

	fmt.Println(transfer(30), "-", waiting(ctx, db))
	fmt.Println(transfer(90), "-", waiting(ctx, db))
	// Output:
	// <nil> - balance 70, messages 1
	// anna has too little - balance 70, messages 1
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
