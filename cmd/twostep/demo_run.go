package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/cmd/bank/ledger"
	"github.com/twostep-mq/twostep/cmd/bank/link"
	"github.com/twostep-mq/twostep/cmd/internal/database"
	"github.com/twostep-mq/twostep/configs"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

// demoRun is everything that works while the demo runs: the server, bank A's senders and bank B's handler in this process, bank
// A's relay in another.
type demoRun struct {
	*demoFolder
	progress *demoProgress
	logger   *slog.Logger
	relayLog io.Writer

	broker  broker.Broker
	address link.Address
	log     *ledger.Log
	history ledger.History
	a, b    *ledger.Bank
	box     *outbox.Outbox
	counts  demoCounts
	meter   commitMeter

	// asked counts transfers, of former processes too; ended those that were refused or rolled back. halfway is closed when half of all
	// were asked for.
	asked, ended atomic.Int64
	halfway      chan struct{}
	tap          *demoTap
	complete     bool

	ctx     context.Context // of the run; services outlive it by their draining
	fail    context.CancelCauseFunc
	closers []func() error
}

// runDemoBanks runs the plan to its end: from where a former process was stopped, if there was one.
func runDemoBanks(ctx context.Context, f *demoFolder, progress *demoProgress, logger *slog.Logger, relayLog io.Writer) (err error) {
	r := &demoRun{demoFolder: f, progress: progress, logger: logger, relayLog: relayLog, halfway: make(chan struct{})}
	r.ctx, r.fail = context.WithCancelCause(ctx)
	defer r.fail(nil)
	defer func() { err = errors.Join(err, r.close()) }()
	for _, step := range []func() error{r.startServer, r.openLog, r.openBanks, r.startServices, r.send, r.waitForQuiet} {
		if err := step(); err != nil {
			if cause := context.Cause(r.ctx); cause != nil {
				return cause
			}
			return err
		}
	}
	r.complete = true
	return nil
}

// later adds what close has to do before everything that was added earlier.
func (r *demoRun) later(fn func() error) { r.closers = append(r.closers, fn) }

func (r *demoRun) close() error {
	var errs []error
	for i := len(r.closers) - 1; i >= 0; i-- {
		errs = append(errs, r.closers[i]())
	}
	return errors.Join(errs...)
}

// service runs something beside until close. Its error ends the run.
func (r *demoRun) service(name string, run func(context.Context) error) {
	ctx, stop := context.WithCancel(context.WithoutCancel(r.ctx))
	var done sync.WaitGroup
	done.Go(func() {
		if err := run(ctx); err != nil {
			r.fail(fmt.Errorf("%s: %w", name, err))
		}
	})
	r.later(func() error {
		stop()
		done.Wait()
		return nil
	})
}

// startServer starts a server like `twostep serve`, on free ports.
func (r *demoRun) startServer() error {
	cfg := configs.Defaults()
	cfg.Data, cfg.HTTP.Listen, cfg.Broker.Listen = r.path(demoServer), "127.0.0.1:0", "127.0.0.1:0"
	server, err := startServer(r.ctx, cfg, r.logger)
	if err != nil {
		return err
	}
	r.later(func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), cfg.ShutdownTimeout)
		defer cancel()
		return server.Close(ctx)
	})
	r.service("server", func(ctx context.Context) error {
		select {
		case err := <-server.Failed():
			return err
		case <-ctx.Done():
			return nil
		}
	})
	r.broker, r.address = server.Broker(), link.Address{URL: server.BrokerURL(), CredentialFile: server.CredentialFile()}
	return nil
}

func (r *demoRun) openLog() error {
	log, records, err := ledger.OpenLog(r.path(demoLogFile))
	if err != nil {
		return err
	}
	r.log, r.history = log, ledger.HistoryOf(records)
	r.asked.Store(int64(len(r.history.Asked)))
	r.later(func() error {
		last := []ledger.Record{r.counts.record()}
		if r.complete {
			last = append(last, ledger.Record{Event: ledger.EventFinished})
		}
		return errors.Join(log.Write(last...), log.Close())
	})
	return log.Write(ledger.Record{Event: ledger.EventStarted})
}

func (r *demoRun) openBanks() (err error) {
	if r.a, err = r.openBank(r.bankA, r.plan.Sending()); err != nil {
		return err
	}
	if r.b, err = r.openBank(r.bankB, r.plan.Receiving()); err != nil {
		return err
	}
	store, err := r.a.Outbox(r.ctx)
	if err != nil {
		return err
	}
	// The relay is another process, so it is the broker that rings.
	r.box, err = outbox.New(r.ctx, store, outbox.Config{Doorbell: r.broker})
	r.later(func() error {
		r.counts.commits.Add(r.meter.read(context.WithoutCancel(r.ctx)))
		return nil
	})
	return err
}

func (r *demoRun) openBank(c database.Config, opening map[string]int64) (*ledger.Bank, error) {
	db, err := database.Open(r.ctx, c)
	if err != nil {
		return nil, err
	}
	r.later(db.Close)
	bank := ledger.New(db)
	if err := r.meter.watch(r.ctx, db); err != nil {
		// It is a figure, and nothing more. A user may lack the right to read it.
		r.logger.Warn("commits are not counted", "error", err)
	}
	if err := db.Migrate(r.ctx, database.Service); err != nil {
		return nil, err
	}
	return bank, bank.SetUp(r.ctx, opening)
}

// startServices starts bank A's relay, bank B's handler, and the tap that has messages delivered again.
func (r *demoRun) startServices() error {
	r.service("keep the counts", r.keepCounts)
	r.service("relay", r.keepRelay)
	app, err := r.newApp()
	if err != nil {
		return err
	}
	r.service("bank B", app.Run)
	if err := app.Ready(r.ctx); err != nil {
		return err
	}
	if r.tap, err = newDemoTap(r); err != nil {
		return err
	}
	r.later(func() error {
		if !r.complete {
			return nil // the next process goes on with the same reader
		}
		return r.broker.DeleteSubscription(context.WithoutCancel(r.ctx), r.tap.spec.Topic, r.tap.spec.UID)
	})
	r.service("tap", r.tap.run)
	r.service("progress", r.showProgress)
	return nil
}

// countsEvery is how much of the counts a crash can lose.
const countsEvery = 100 * time.Millisecond

// keepCounts notes the counts in the log. They go to the disk with the next transfer's record.
func (r *demoRun) keepCounts(ctx context.Context) error {
	tick := time.NewTicker(countsEvery)
	defer tick.Stop()
	var last string
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		r.counts.commits.Add(r.meter.read(ctx))
		record := r.counts.record()
		if now := fmt.Sprint(record.Counts); now != last {
			last = now
			if err := r.log.Write(record); err != nil {
				return err
			}
		}
	}
}

// What bank B's handler does to messages.
const (
	// failPerMille of the transfers fail at first; some of them a second time.
	failPerMille      = 10
	failAgainPerMille = 300
	// lockedAccount refuses every credit, so its transfers become dead letters after so many attempts.
	lockedAccount = 13
	demoAttempts  = 3
)

func (r *demoRun) newApp() (*topics.App, error) {
	store, err := r.b.Consumer(r.ctx)
	if err != nil {
		return nil, err
	}
	app := topics.NewApp(r.broker, &countingStore{Store: store, counts: &r.counts}, topics.AppConfig{Name: "bank-b", Logger: r.logger})
	ledger.TransIn.HandleShared(app, "accounts", r.credit,
		topics.WithMaxAttempts(demoAttempts), topics.WithOnDead(topics.ContinueOnDead),
		topics.WithBackoff(func(n int) time.Duration { return time.Duration(n) * 20 * time.Millisecond }))
	return app, nil
}

// credit is bank B's handler: the ledger's, and what goes wrong on purpose.
func (r *demoRun) credit(ctx context.Context, tx outbox.Tx, m topics.Received[ledger.Transfer]) error {
	if m.Attempt > 1 {
		r.counts.retries.Add(1)
	}
	t := m.Data
	if t.To == ledger.ReceivingAccount(lockedAccount%r.plan.Accounts) {
		return errors.New("the account is locked")
	}
	if r.plan.Chance("fails", t.ID, failPerMille) && (m.Attempt == 1 || m.Attempt == 2 && r.plan.Chance("fails again", t.ID, failAgainPerMille)) {
		return errors.New("the bank's computer is busy")
	}
	return r.b.Credit(ctx, tx, t)
}
