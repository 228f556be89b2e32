package topics_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

// Transfer is money on its way to an account of bank B.
type Transfer struct {
	To     string `json:"to"`
	Amount int    `json:"amount"`
}

// TransIn carries transfers. Those of one account are executed in the order of their commits.
var TransIn = topics.New(topics.Config[Transfer]{
	Name: "bank.trans-in",
	Key:  func(t Transfer) string { return t.To },
})

// creditAccount is bank B's business.
func creditAccount(ctx context.Context, tx outbox.Tx, t Transfer) error {
	if t.Amount <= 0 {
		return errors.New("nothing to credit")
	}
	_, err := tx.ExecContext(ctx, `UPDATE account SET balance = balance + ? WHERE name = ?`, t.Amount, t.To)
	return err
}

// A topic makes typed messages, and a handler executes them in a transaction that already holds the barrier row: a duplicate
// never gets here. Bank A and bank B share nothing but the broker.
func ExampleTopic_Handle() {
	ctx := context.Background()
	town := newTown(ctx)
	defer town.close()

	app := topics.NewApp(town.connect("bank-b"), town.consumer, topics.AppConfig{Name: "bank-b"})
	TransIn.Handle(app, "accounts", func(ctx context.Context, tx outbox.Tx, m topics.Received[Transfer]) error {
		return creditAccount(ctx, tx, m.Data)
	})
	town.run(app.Run)
	must(app.Ready(ctx))

	err := town.box.Transact(ctx, func(tx outbox.Tx) error {
		_, err := town.box.Publish(ctx, tx, TransIn.Message(Transfer{To: "bert", Amount: 30}))
		return err
	})
	must(err)
	town.waitReleased(ctx) // bank B's receipt has arrived
	fmt.Println("bert has", balance(ctx, town.b, "bert"))
	// Output: bert has 30
}

// Handlers that touch nothing but their database may share transactions, which is much faster.
func ExampleTopic_HandleShared() {
	ctx := context.Background()
	town := newTown(ctx)
	defer town.close()

	app := topics.NewApp(town.connect("bank-b"), town.consumer, topics.AppConfig{Name: "bank-b"})
	TransIn.HandleShared(app, "accounts", func(ctx context.Context, tx outbox.Tx, m topics.Received[Transfer]) error {
		return creditAccount(ctx, tx, m.Data)
	})
	town.run(app.Run)
	must(app.Ready(ctx))

	for range 100 {
		err := town.box.Transact(ctx, func(tx outbox.Tx) error {
			_, err := town.box.Publish(ctx, tx, TransIn.Message(Transfer{To: "bert", Amount: 1}))
			return err
		})
		must(err)
	}
	town.waitReleased(ctx)
	fmt.Println("bert has", balance(ctx, town.b, "bert"))
	// Output: bert has 100
}

// With declare off, topics are made beforehand (twostep topics create), and publishing to another one is an error.
func ExampleApp_Known() {
	ctx := context.Background()
	town := newTown(ctx)
	defer town.close()

	app := topics.NewApp(town.connect("bank-a"), town.consumer, topics.AppConfig{Declare: topics.DeclareOff})
	town.run(app.Run)
	must(app.Ready(ctx))
	box, err := outbox.New(ctx, town.outbox, outbox.Config{Known: app.Known})
	must(err)
	err = box.Transact(ctx, func(tx outbox.Tx) error {
		_, err := box.Publish(ctx, tx, TransIn.Message(Transfer{To: "bert", Amount: 30}))
		return err
	})
	fmt.Println(err)
	// Output: outbox: unknown topic "bank.trans-in": declare is off, so make it first: twostep topics create bank.trans-in
}

// An error is tried again, with growing pauses, and holds back its key only. Dead says that no repetition helps: the message is a dead
// letter until somebody replays or drops it.
func ExampleDead() {
	handler := func(ctx context.Context, tx outbox.Tx, m topics.Received[Transfer]) error {
		if m.Data.Amount < 0 {
			return topics.Dead(fmt.Errorf("amount %d: transfers are not negative", m.Data.Amount))
		}
		return creditAccount(ctx, tx, m.Data)
	}
	err := handler(context.Background(), nil, topics.Received[Transfer]{Data: Transfer{To: "bert", Amount: -5}})
	fmt.Println(err)
	// Output: amount -5: transfers are not negative
}

func balance(ctx context.Context, db *sql.DB, account string) (n int) {
	must(db.QueryRowContext(ctx, `SELECT balance FROM account WHERE name = ?`, account).Scan(&n))
	return n
}
