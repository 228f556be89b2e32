package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/twostep-mq/twostep/cmd/bank/ledger"
	"github.com/twostep-mq/twostep/cmd/bank/link"
	"github.com/twostep-mq/twostep/cmd/internal/database"
	"github.com/twostep-mq/twostep/outbox"
)

type senderConfig struct {
	db      database.Config
	log     string
	plan    ledger.Plan
	clients int
	rate    float64
	lease   time.Duration
	relay   bool
	stay    bool
}

// runSender is bank A.
func runSender(ctx context.Context, args []string, log *slog.Logger) error {
	var c senderConfig
	flags := flag.NewFlagSet("bank sender", flag.ContinueOnError)
	var at place
	at.addFlags(flags)
	flags.StringVar(&c.log, "log", "", "log of the transfers asked for; default: the database file with .log, or bank-sender.log")
	flags.IntVar(&c.plan.Transfers, "transfers", 1000, "transfers to ask for")
	flags.IntVar(&c.plan.Accounts, "accounts", 150, "accounts of each bank")
	flags.Uint64Var(&c.plan.Seed, "seed", 1, "seed of the plan; senders on one database have different ones")
	flags.IntVar(&c.clients, "clients", 8, "transfers at the same time")
	flags.Float64Var(&c.rate, "rate", 0, "transfers a second; 0: as many as there can be")
	flags.DurationVar(&c.lease, "lease", 5*time.Second, "how long a relay that shows no life keeps the outbox")
	flags.BoolVar(&c.relay, "relay", true, "relay the outbox in this process, too")
	flags.BoolVar(&c.stay, "stay", false, "stay and relay after the last transfer, until SIGTERM; else end when all are confirmed")
	if err := parse(flags, args); err != nil {
		return err
	}
	var err error
	if c.db, err = at.config(flags); err != nil {
		return err
	}
	if err := c.plan.Validate(); err != nil {
		return usageError(err.Error())
	}
	if c.log == "" && c.db.Kind == database.SQLite {
		c.log = c.db.DSN + ".log"
	} else if c.log == "" {
		c.log = "bank-sender.log"
	}
	return send(ctx, c, log)
}

// sender is bank A's service.
type sender struct {
	senderConfig
	books  *ledger.Log
	known  map[string]ledger.Event // results of transfers asked for before, by id; "" where nobody knows
	bank   *ledger.Bank
	box    *outbox.Outbox
	counts map[ledger.Event]*atomic.Int64
}

func send(ctx context.Context, c senderConfig, log *slog.Logger) (err error) {
	s := &sender{senderConfig: c, counts: map[ledger.Event]*atomic.Int64{
		ledger.EventCommitted: {}, ledger.EventRefused: {},
	}}

	// The service's own database: its business tables, and beside them twostep's outbox.
	// A service knows its database and uses that adapter alone: sqlite.Open, sqlite.Migrate, sqlite.NewOutbox, or those of postgres or mysql.
	db, err := database.Open(ctx, c.db)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := db.Migrate(ctx, database.Service); err != nil {
		return err
	}
	s.bank = ledger.New(db)
	if err := s.bank.SetUp(ctx, c.plan.Sending()); err != nil {
		return err
	}
	store, err := db.Outbox(ctx)
	if err != nil {
		return err
	}

	// The broker need not be there to publish: it is the relay that wants it, and waits for it.
	b, err := link.FromEnv().Connect(ctx, "bank-sender", log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close(context.WithoutCancel(ctx))) }()

	// The doorbell wakes the relay, wherever it runs. Without it, messages would wait for the relay's next look, up to a second.
	if s.box, err = outbox.New(ctx, store, outbox.Config{Doorbell: b}); err != nil {
		return err
	}
	if err := s.openBooks(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.books.Close()) }()

	parts, ctx := errgroup.WithContext(ctx)
	relaying, stopRelay := context.WithCancel(ctx)
	defer stopRelay()
	if c.relay {
		relay := outbox.NewRelay(store, b, outbox.RelayConfig{Name: "bank-a", Lease: c.lease, Logger: log})
		parts.Go(func() error { return relay.Run(relaying) })
	}
	parts.Go(func() error {
		defer stopRelay()
		return s.work(ctx)
	})
	fmt.Println("ready")
	if err := parts.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]int64{
		"committed": s.counts[ledger.EventCommitted].Load(), "refused": s.counts[ledger.EventRefused].Load(),
	})
}

// openBooks reads what was asked for before. Where the result is not known, because the process was killed, the database decides.
func (s *sender) openBooks(ctx context.Context) error {
	books, records, err := ledger.OpenLog(s.log)
	if err != nil {
		return err
	}
	s.books, s.known = books, map[string]ledger.Event{}
	statement, err := s.bank.Read(ctx)
	if err != nil {
		return err
	}
	debited := map[string]bool{}
	for _, e := range statement.Entries {
		debited[e.Transfer] = true
	}
	for _, a := range ledger.HistoryOf(records).Asked {
		s.known[a.ID] = a.Result
		if a.Result == "" && debited[a.ID] {
			s.known[a.ID] = ledger.EventCommitted
			if err := books.Write(ledger.Record{Event: ledger.EventCommitted, ID: a.ID}); err != nil {
				return err
			}
		}
	}
	return books.Write(ledger.Record{Event: ledger.EventStarted})
}

// work makes the transfers and then waits until every subscription has confirmed them.
func (s *sender) work(ctx context.Context) error {
	var next atomic.Int64
	var pace <-chan time.Time
	if s.rate > 0 {
		ticker := time.NewTicker(time.Duration(float64(time.Second) / s.rate))
		defer ticker.Stop()
		pace = ticker.C
	}
	clients, working := errgroup.WithContext(ctx)
	for range s.clients {
		clients.Go(func() error {
			for i := next.Add(1) - 1; i < int64(s.plan.Transfers); i = next.Add(1) - 1 {
				if pace != nil {
					select {
					case <-pace:
					case <-working.Done():
					}
				}
				if working.Err() != nil {
					return working.Err()
				}
				if err := s.transfer(working, s.plan.Transfer(int(i))); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := clients.Wait(); err != nil {
		return err
	}
	fmt.Println("sent")
	if s.stay {
		<-ctx.Done()
		return nil
	}
	return s.waitForReceipts(ctx)
}

// transfer makes one transfer, unless its result is known already.
func (s *sender) transfer(ctx context.Context, t ledger.Transfer) error {
	result, asked := s.known[t.ID]
	if result != "" {
		return nil
	}
	if !asked {
		// In the books first: whatever happens from here on, somebody knows that it was asked for.
		if err := s.books.Write(ledger.Record{Event: ledger.EventAsked, Transfer: &t}); err != nil {
			return err
		}
	}
	err := s.debit(context.WithoutCancel(ctx), t)
	switch {
	case err == nil, errors.Is(err, outbox.ErrDuplicate): // published before: the gid says so
		result = ledger.EventCommitted
	case errors.Is(err, ledger.ErrRefused):
		result = ledger.EventRefused
	default:
		return err
	}
	s.counts[result].Add(1)
	return s.books.Note(ledger.Record{Event: result, ID: t.ID})
}

// debit is the whole point: the money leaves the account and the message enters the outbox in one local transaction. There is no
// moment at which one is there without the other, and no network call in it.
func (s *sender) debit(ctx context.Context, t ledger.Transfer) error {
	tx, err := s.bank.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if err := s.bank.Debit(ctx, tx, t); err != nil {
		return err
	}
	if _, err := s.box.Publish(ctx, tx, ledger.TransIn.Message(t)); err != nil {
		return err
	}
	return tx.Commit()
}

// waitForReceipts waits until the outbox is empty: a message leaves it when every subscription has executed it, or keeps it
// parked in its own database.
func (s *sender) waitForReceipts(ctx context.Context) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		n, err := s.bank.Unreleased(ctx)
		if err != nil || n == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
