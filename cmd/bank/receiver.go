package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"

	"github.com/twostep-mq/twostep/cmd/bank/ledger"
	"github.com/twostep-mq/twostep/cmd/bank/link"
	"github.com/twostep-mq/twostep/cmd/internal/database"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

type receiverConfig struct {
	db                    database.Config
	subscription, declare string
	accounts              int
	// failPerMille of the transfers fail at their first attempt, so that one can see that they are tried again.
	failPerMille int
}

// runReceiver is bank B.
func runReceiver(ctx context.Context, args []string, log *slog.Logger) error {
	var c receiverConfig
	flags := flag.NewFlagSet("bank receiver", flag.ContinueOnError)
	var at place
	at.addFlags(flags)
	flags.StringVar(&c.subscription, "subscription", "accounts", "name of the subscription; each one executes every transfer")
	flags.StringVar(&c.declare, "declare", string(topics.DeclareOn), "on: the subscription is made if it is not there; off: it has to be there")
	flags.IntVar(&c.accounts, "accounts", 150, "accounts of the bank")
	flags.IntVar(&c.failPerMille, "fail-per-mille", 0, "how many of a thousand transfers fail at first")
	if err := parse(flags, args); err != nil {
		return err
	}
	var err error
	if c.db, err = at.config(flags); err != nil {
		return err
	}
	return receive(ctx, c, log)
}

func receive(ctx context.Context, c receiverConfig, log *slog.Logger) (err error) {
	plan := ledger.Plan{Accounts: c.accounts}

	// The service's own database: its business tables, and beside them twostep's (barrier, parked messages, outbox).
	// A service knows its database and uses that adapter alone: sqlite.Open, sqlite.Migrate, sqlite.NewConsumer, or those of postgres or mysql.
	db, err := database.Open(ctx, c.db)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := db.Migrate(ctx, database.Service); err != nil {
		return err
	}
	bank := ledger.New(db)
	if err := bank.SetUp(ctx, plan.Receiving()); err != nil {
		return err
	}
	store, err := db.Consumer(ctx)
	if err != nil {
		return err
	}

	b, err := link.FromEnv().Connect(ctx, "bank-receiver", log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close(context.WithoutCancel(ctx))) }()

	app := topics.NewApp(b, store, topics.AppConfig{Name: "bank-b", Declare: topics.Declare(c.declare), Logger: log})

	// The handler gets a transaction that holds the barrier row already: a transfer that comes a second time does not get here. What it
	// does is committed together with that row, or not at all. It only touches its database, so transfers may share a commit; a handler
	// that calls other systems uses Handle, and m.IdempotencyKey() for the calls.
	ledger.TransIn.HandleShared(app, c.subscription, func(ctx context.Context, tx outbox.Tx, m topics.Received[ledger.Transfer]) error {
		if m.Attempt == 1 && plan.Chance("fails", m.Data.ID, c.failPerMille) {
			return errors.New("the bank's computer is busy") // tried again after a pause; later transfers to the account wait for it
		}
		err := bank.Credit(ctx, tx, m.Data)
		if errors.Is(err, ledger.ErrNoAccount) {
			return topics.Dead(err) // trying again would not help: a person looks at it (twostep dead list)
		}
		return err
	})

	go func() {
		if app.Ready(ctx) == nil {
			fmt.Println("ready")
		}
	}()
	// Run returns when ctx ends, after the running handlers.
	return app.Run(ctx)
}
