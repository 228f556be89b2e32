package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/twostep-mq/twostep/cmd/bank/link"
	"github.com/twostep-mq/twostep/cmd/internal/database"
	"github.com/twostep-mq/twostep/outbox"
)

const (
	// demoLease is shorter than the relay's default, so that the demo is not mostly a wait for a killed relay's lease.
	demoLease = 2 * time.Second
	// relaySettling is how long a relay that ended is not yet an error: a signal of the terminal reaches both processes.
	relaySettling = time.Second
)

// keepRelay keeps bank A's relay running in a process of its own, and kills one half-way.
func (r *demoRun) keepRelay(ctx context.Context) error {
	p, err := r.startRelay()
	if err != nil {
		return err
	}
	halfway := r.halfway
	if r.history.Counts[countRelayKills] > 0 {
		halfway = nil // a former process did it
	}
	for {
		select {
		case <-halfway:
			halfway = nil
			p.kill()
			r.counts.relayKills.Add(1)
			if err := r.log.Write(r.counts.record()); err != nil {
				return err
			}
			if p, err = r.startRelay(); err != nil {
				return err
			}
		case <-p.done:
			select {
			case <-ctx.Done():
				return nil
			case <-r.ctx.Done():
				return nil
			case <-time.After(relaySettling):
				return fmt.Errorf("the process ended by itself: %w", errors.Join(p.err, errors.New("see the log of the processes")))
			}
		case <-ctx.Done():
			p.stop()
			return nil
		}
	}
}

func (r *demoRun) startRelay() (*relayProcess, error) {
	return startRelayProcess(r.ctx, r.bankA, r.address, demoLease, r.relayLog, func(commits int64) { r.counts.relayCommits.Add(commits) })
}

// newDemoRelayCommand is the other process: a relay that knows bank A's database and the broker's address, and nothing else.
func newDemoRelayCommand() *cobra.Command {
	var driver, name string
	var lease time.Duration
	cmd := &cobra.Command{
		Use: "relay", Hidden: true, Short: "Relay of bank A (started by demo)", Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			// The parent holds the other end of the input for as long as it lives.
			ctx, cancel := context.WithCancel(cmd.Context())
			defer cancel()
			go func() {
				_, _ = io.Copy(io.Discard, cmd.InOrStdin())
				cancel()
			}()
			logger := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)).With("pid", os.Getpid())
			kind, err := database.ParseKind(driver)
			if err != nil {
				return usagef("--driver: %v", err)
			}
			return runDemoRelay(ctx, database.Config{Kind: kind, DSN: os.Getenv(envDSN), Name: name}, link.FromEnv(), lease, logger, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&driver, "driver", "", "kind of database; its DSN is in "+envDSN)
	cmd.Flags().DurationVar(&lease, "lease", 0, "the relay's lease; 0: its default")
	cmd.Flags().StringVar(&name, "name", "", "name of the database on its server")
	return cmd
}

// runDemoRelay relays until ctx ends and tells on out how often it has committed, where no server counts that.
func runDemoRelay(ctx context.Context, bankA database.Config, address link.Address, lease time.Duration, logger *slog.Logger, out io.Writer) (err error) {
	db, err := openAgain(ctx, bankA)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	var store database.Outbox
	err = throughOutage(ctx, func() (err error) { store, err = db.Outbox(ctx); return err }, db.Kind)
	if err != nil {
		return err
	}
	b, err := address.Connect(ctx, "demo-relay", logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close(context.WithoutCancel(ctx))) }()
	relay := outbox.NewRelay(store, b, outbox.RelayConfig{Name: "bank-a", Lease: lease, Logger: logger})
	var both errgroup.Group
	ended := make(chan struct{})
	both.Go(func() error {
		defer close(ended)
		return relay.Run(ctx)
	})
	both.Go(func() error {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for told := int64(-1); ; {
			stop := false
			select {
			case <-ended:
				stop = true
			case <-tick.C:
			}
			if bankA.Kind != database.SQLite {
				if stop {
					return nil
				}
				continue
			}
			if n, err := db.Commits(ctx); err == nil && n != told {
				told = n
				// Nobody reads any more when the parent is gone; the end of the input says so, too.
				_, _ = fmt.Fprintln(out, n)
			}
			if stop {
				return nil
			}
		}
	})
	return both.Wait()
}
