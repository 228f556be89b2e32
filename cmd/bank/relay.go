package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"time"

	"github.com/twostep-mq/twostep/cmd/bank/link"
	"github.com/twostep-mq/twostep/cmd/internal/database"
	"github.com/twostep-mq/twostep/outbox"
)

// runRelay relays bank A's outbox and does nothing else. Any number of relays may run for one outbox, here and in the senders: one
// works, the others stand by and take over when it shows no life for a lease, or at once when it is stopped by SIGTERM.
func runRelay(ctx context.Context, args []string, log *slog.Logger) (err error) {
	flags := flag.NewFlagSet("bank relay", flag.ContinueOnError)
	var at place
	at.addFlags(flags)
	lease := flags.Duration("lease", 5*time.Second, "how long a relay that shows no life keeps the outbox")
	if err := parse(flags, args); err != nil {
		return err
	}
	cfg, err := at.config(flags)
	if err != nil {
		return err
	}
	cfg.MustExist = true
	db, err := database.Open(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	store, err := db.Outbox(ctx)
	if err != nil {
		return err
	}
	b, err := link.FromEnv().Connect(ctx, "bank-relay", log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close(context.WithoutCancel(ctx))) }()
	fmt.Println("ready")
	return outbox.NewRelay(store, b, outbox.RelayConfig{Name: "bank-a", Lease: *lease, Logger: log}).Run(ctx)
}
