package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/twostep-mq/twostep/adapters/sqlite"
	"github.com/twostep-mq/twostep/broker"
	natsbroker "github.com/twostep-mq/twostep/broker/nats"
	"github.com/twostep-mq/twostep/broker/nats/embedded"
	"github.com/twostep-mq/twostep/cmd/internal/database"
	"github.com/twostep-mq/twostep/topics"
)

// benchRig is everything that is measured, in one process: two banks, the embedded broker and the registry between them.
type benchRig struct {
	dir   string
	a, b  *benchBank
	store database.Outbox // of bank a
	meter commitMeter
	// commits read from the meter so far.
	commits int64
	books   benchBooks
	server  *embedded.Server
	broker  *benchBroker
	owner   *topics.Owner
	// banks are the databases\' configurations, for other processes.
	banks [2]database.Config

	services *errgroup.Group // registry owner, relay, app
	stop     context.CancelFunc
	closers  []func() error
}

// benchBroker counts what is handed to the broker.
type benchBroker struct {
	broker.Broker
	messages, receipts atomic.Int64
}

func (b *benchBroker) Publish(ctx context.Context, ms []*broker.Message, done func(int, broker.Position, error)) {
	b.messages.Add(int64(len(ms)))
	b.Broker.Publish(ctx, ms, done)
}

func (b *benchBroker) Send(ctx context.Context, inbox string, ms []*broker.Message) (int, error) {
	b.receipts.Add(int64(len(ms)))
	return b.Broker.Send(ctx, inbox, ms)
}

func newBenchRig(ctx context.Context, o benchOptions) (rig *benchRig, err error) {
	r := &benchRig{}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	if err := r.makeFolder(o.dir); err != nil {
		return nil, err
	}
	if err := r.openBanks(ctx, o); err != nil {
		return nil, err
	}
	if r.store, err = r.a.Outbox(ctx); err != nil {
		return nil, err
	}
	return r, r.startBroker(ctx, o)
}

// openBanks makes two databases: files in the folder, or new ones on servers, which go at the end.
func (r *benchRig) openBanks(ctx context.Context, o benchOptions) error {
	kinds, err := o.banks.parse([2]database.Kind{database.SQLite, database.SQLite})
	if err != nil {
		return err
	}
	configs, err := o.banks.servers(kinds)
	if err != nil {
		return err
	}
	run := uuid.NewString()[:8]
	for i, into := range []**benchBank{&r.a, &r.b} {
		c, name := configs[i], string("ab"[i])
		if c.Kind == database.SQLite {
			c.DSN = filepath.Join(r.dir, name+".db")
		} else {
			c.Name = "twostep_bench_" + run + "_" + name
			if err := database.Create(ctx, c); err != nil {
				return err
			}
			r.closers = append(r.closers, func() error { return database.Drop(context.WithoutCancel(ctx), c) })
		}
		bank, err := openBenchBank(ctx, c, name)
		if err != nil {
			return err
		}
		*into, r.banks[i] = bank, c
		r.closers = append(r.closers, bank.Close)
		if err := r.meter.watch(ctx, bank.Database); err != nil {
			return err
		}
	}
	return nil
}

// makeFolder makes a new folder, in dir if that is given, so that nothing of another run is measured.
func (r *benchRig) makeFolder(dir string) error {
	if dir != "" {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("--dir: %w", err)
		}
	}
	var err error
	if r.dir, err = os.MkdirTemp(dir, "twostep-bench-"); err != nil {
		return fmt.Errorf("make a folder to measure in: %w", err)
	}
	r.closers = append(r.closers, func() error { return os.RemoveAll(r.dir) })
	return nil
}

// benchTopicBytes is room for the messages of a run; a message has some 500 bytes with its headers.
func benchTopicBytes(transfers int) int64 { return max(256<<20, int64(transfers)<<10) }

func (r *benchRig) startBroker(ctx context.Context, o benchOptions) error {
	var err error
	if r.server, err = embedded.Start(ctx, embedded.Config{StoreDir: filepath.Join(r.dir, "broker"), Listen: "127.0.0.1:0"}); err != nil {
		return err
	}
	r.closers = append(r.closers, func() error { return r.server.Shutdown(context.Background()) })
	connected, err := r.server.Connect(ctx, natsbroker.Config{Name: "bench", TopicMaxBytes: benchTopicBytes(o.transfers)})
	if err != nil {
		return err
	}
	r.broker = &benchBroker{Broker: connected}
	r.closers = append(r.closers, func() error { return connected.Close(context.Background()) })

	registry, err := sqlite.Open(filepath.Join(r.dir, "server.db"))
	if err != nil {
		return err
	}
	r.closers = append(r.closers, registry.Close)
	if err := sqlite.Migrate(ctx, registry, sqlite.Orchestrator); err != nil {
		return err
	}
	registryStore, err := sqlite.NewRegistry(ctx, registry)
	if err != nil {
		return err
	}
	var running context.Context
	running, r.stop = context.WithCancel(context.WithoutCancel(ctx))
	r.services, running = errgroup.WithContext(running)
	r.owner = topics.NewOwner(registryStore, r.broker, topics.OwnerConfig{})
	r.services.Go(func() error { return r.owner.Run(running) })
	return nil
}

// service runs one of the rig's services until the returned stop. Its error ends the wait.
func (r *benchRig) service(ctx context.Context, run func(context.Context) error) (stop func() error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	return func() error {
		cancel()
		return <-ended
	}
}

// close stops everything, in reverse order of start, and removes the folder.
func (r *benchRig) close() (err error) {
	if r.stop != nil {
		r.stop()
		err = r.services.Wait()
	}
	for i := len(r.closers) - 1; i >= 0; i-- {
		err = errors.Join(err, r.closers[i]())
	}
	r.closers = nil
	return err
}

func (r *benchRig) countMoney(ctx context.Context) (benchMoney, error) {
	return countMoney(ctx, r.a, r.b, &r.books)
}

// benchCounters are read before and after a run.
type benchCounters struct {
	commits, messages, receipts int64
	cpu                         time.Duration
}

func (r *benchRig) counters() benchCounters {
	r.commits += r.meter.read(context.Background())
	return benchCounters{
		commits:  r.commits,
		messages: r.broker.messages.Load(), receipts: r.broker.receipts.Load(), cpu: cpuTime(),
	}
}

// since adds to a round what was counted since before.
func (r *benchRig) since(before benchCounters, round *benchRound) {
	now := r.counters()
	round.commits = now.commits - before.commits
	round.messages = now.messages - before.messages
	round.receipts = now.receipts - before.receipts
	round.cpu = now.cpu - before.cpu
}

// benchPatience bounds the wait for the last rows to be released, and for credits while none comes.
const benchPatience = time.Minute

// released waits until the outbox is empty.
func (r *benchRig) released(ctx context.Context) error {
	deadline := time.Now().Add(benchPatience)
	for {
		var left bool
		if err := r.a.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM twostep_outbox)`).Scan(&left); err != nil {
			return fmt.Errorf("look at the outbox: %w", err)
		}
		if !left {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("rows are left in the outbox after %v", benchPatience)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// clients runs do for the numbers 0 to transfers-1 on o.clients goroutines and returns how long each took.
func clients(ctx context.Context, o benchOptions, do func(ctx context.Context, n int) error) ([]time.Duration, error) {
	waits := make([]time.Duration, o.transfers)
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for range o.clients {
		group.Go(func() error {
			for {
				n := int(next.Add(1)) - 1
				if n >= o.transfers {
					return nil
				}
				start := time.Now()
				if err := do(ctx, n); err != nil {
					return fmt.Errorf("transfer %d: %w", n, err)
				}
				waits[n] = time.Since(start)
			}
		})
	}
	return waits, group.Wait()
}
