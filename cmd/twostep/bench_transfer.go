package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

// benchTransfer measures debit in A and credit in B, in both forms of sending.
func benchTransfer(ctx context.Context, r *benchRig, o benchOptions) (forms map[string]benchFigures, err error) {
	topic := benchTopic("bench.transfer", o.keyed, outbox.DeliveryConfirmed)
	credits := &benchCredits{}
	stop, box, err := r.startTransfer(ctx, topic, credits)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	senders := benchSenders(r, box, topic)
	return eachForm(o, func(form string) (benchFigures, error) {
		ours := func(ctx context.Context) (benchRound, error) {
			return r.transferRound(ctx, o, credits, senders[form])
		}
		naive := func(ctx context.Context) (benchRound, error) {
			before, start := r.counters(), time.Now()
			waits, err := clients(ctx, o, func(ctx context.Context, n int) error {
				t := benchTransferOf(n)
				if err := r.a.bare(ctx, r.a.debit, t); err != nil {
					return err
				}
				return r.b.bare(ctx, r.b.credit, t)
			})
			round := benchRound{transfers: o.transfers, elapsed: time.Since(start), waits: waits, batches: int64(o.transfers)}
			r.since(before, &round)
			r.books.debited(o.transfers)
			r.books.credited(o.transfers)
			return round, err
		}
		return runPairs(ctx, o, ours, naive)
	})
}

func eachForm(o benchOptions, measure func(form string) (benchFigures, error)) (map[string]benchFigures, error) {
	forms := map[string]benchFigures{}
	for _, form := range []string{formTransact, formOwn} {
		if o.form != "" && o.form != form {
			continue
		}
		f, err := measure(form)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", form, err)
		}
		forms[form] = f
	}
	return forms, nil
}

// benchSenders are the two forms of sending: debit and message in one commit.
func benchSenders(r *benchRig, box *outbox.Outbox, topic *topics.Topic[benchTransferred]) map[string]func(context.Context, int) error {
	send := func(ctx context.Context, tx outbox.Transaction, n int) error {
		t := benchTransferOf(n)
		if err := r.a.debit(ctx, tx, t); err != nil {
			return err
		}
		_, err := box.Publish(ctx, tx, topic.Message(t))
		return err
	}
	return map[string]func(context.Context, int) error{
		formTransact: func(ctx context.Context, n int) error {
			return box.Transact(ctx, func(tx outbox.Tx) error { return send(ctx, tx, n) })
		},
		formOwn: func(ctx context.Context, n int) error {
			tx, err := r.a.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			defer func() { _ = tx.Rollback() }()
			if err := send(ctx, tx, n); err != nil {
				return err
			}
			return tx.Commit()
		},
	}
}

// startTransfer starts bank A's relay and bank B's receiver and waits until they work.
func (r *benchRig) startTransfer(ctx context.Context, topic *topics.Topic[benchTransferred], credits *benchCredits) (stop func() error, box *outbox.Outbox, err error) {
	consumer, err := r.b.Consumer(ctx)
	if err != nil {
		return nil, nil, err
	}
	app := topics.NewApp(r.broker, &benchStore{Store: consumer, credits: credits}, topics.AppConfig{Name: "bank-b"})
	topic.HandleShared(app, "accounts", func(ctx context.Context, tx outbox.Tx, m topics.Received[benchTransferred]) error {
		credits.handled(m.Data.Number)
		return r.b.credit(ctx, tx, m.Data)
	})
	relay := outbox.NewRelay(r.store, r.broker, outbox.RelayConfig{Name: "bank-a"})
	box, err = outbox.New(ctx, r.store, outbox.Config{Doorbell: relay})
	if err != nil {
		return nil, nil, err
	}
	stopApp := r.service(ctx, app.Run)
	stopRelay := r.service(ctx, relay.Run)
	stop = func() error { return errors.Join(stopRelay(), stopApp()) }
	ready, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := app.Ready(ready); err != nil {
		return nil, nil, errors.Join(err, stop())
	}
	return stop, box, nil
}

// transferRound sends all transfers, waits for the last credit, then until every row is released.
func (r *benchRig) transferRound(ctx context.Context, o benchOptions, credits *benchCredits, send func(context.Context, int) error) (benchRound, error) {
	done := credits.expect(o.transfers)
	before, start := r.counters(), time.Now()
	waits, err := clients(ctx, o, func(ctx context.Context, n int) error {
		credits.begin(n)
		return send(ctx, n)
	})
	if err != nil {
		return benchRound{}, err
	}
	select {
	case <-done:
	case <-ctx.Done():
		return benchRound{}, ctx.Err()
	case <-time.After(benchPatience):
		return benchRound{}, fmt.Errorf("not all of %d credits came within %v of the last debit: %d are missing", o.transfers, benchPatience, credits.missing())
	}
	round := credits.round()
	round.transfers, round.waits, round.elapsed = o.transfers, waits, credits.last().Sub(start)
	if err := r.released(ctx); err != nil {
		return benchRound{}, err
	}
	r.since(before, &round)
	r.books.debited(o.transfers)
	r.books.credited(o.transfers)
	return round, nil
}

// benchCredits notes which credits have committed, and when.
type benchCredits struct {
	mu      sync.Mutex
	begun   []time.Time
	effects []time.Duration
	open    []int // handled in the transaction that runs
	left    int
	batches int64
	at      time.Time
	done    chan struct{}
}

func (c *benchCredits) expect(transfers int) (done <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.begun, c.effects = make([]time.Time, transfers), make([]time.Duration, transfers)
	c.open, c.left, c.batches, c.done = nil, transfers, 0, make(chan struct{})
	return c.done
}

// begin is called before the transfer's own transaction, so before anybody can handle it.
func (c *benchCredits) begin(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.begun[n] = time.Now()
}

func (c *benchCredits) handled(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open = append(c.open, n)
}

// ended is called when the receiver's transaction has committed, or not.
func (c *benchCredits) ended(committed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if committed && len(c.open) > 0 {
		c.batches++
		c.at = time.Now()
		for _, n := range c.open {
			c.effects[n] = c.at.Sub(c.begun[n])
		}
		if c.left -= len(c.open); c.left == 0 {
			close(c.done)
		}
	}
	c.open = c.open[:0]
}

func (c *benchCredits) last() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *benchCredits) missing() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.left
}

func (c *benchCredits) round() benchRound {
	c.mu.Lock()
	defer c.mu.Unlock()
	return benchRound{effects: c.effects, batches: c.batches}
}

// benchStore tells credits what becomes of the receiver's transactions.
type benchStore struct {
	topics.Store
	credits *benchCredits
}

// TryAgain passes the question on; embedding alone would hide that the store can answer it.
func (s *benchStore) TryAgain(err error) bool {
	judge, ok := s.Store.(topics.RetryJudge)
	return ok && judge.TryAgain(err)
}

func (s *benchStore) Begin(ctx context.Context) (topics.StoreTx, error) {
	tx, err := s.Store.Begin(ctx)
	if err != nil {
		return nil, err
	}
	return &benchStoreTx{StoreTx: tx, credits: s.credits}, nil
}

type benchStoreTx struct {
	topics.StoreTx
	credits *benchCredits
}

func (t *benchStoreTx) Commit(ctx context.Context) error {
	err := t.StoreTx.Commit(ctx)
	t.credits.ended(err == nil)
	return err
}

func (t *benchStoreTx) Rollback() error {
	t.credits.ended(false)
	return t.StoreTx.Rollback()
}
