package topics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/outbox"
)

// dispatcherConfig is what a dispatcher needs. Subscription, Store, Send and Handler are required.
type dispatcherConfig struct {
	Subscription outbox.RegistrySubscription
	Store        Store
	// Send puts messages into an inbox: receipts.
	Send    func(ctx context.Context, inbox string, ms []*broker.Message) (int, error)
	Handler func(ctx context.Context, tx outbox.Tx, d broker.Delivery) error
	// Shared: the messages of a batch share one transaction; else each has its own.
	Shared bool
	// HoldOnDead: a dead letter holds its key back.
	HoldOnDead bool
	// MaxAttempts makes a message a dead letter; 0: 20.
	MaxAttempts int
	// Backoff is the pause after an attempt (from 1) failed; nil: from 250 ms up to 15 s.
	Backoff func(attempt int) time.Duration
	// Pause waits before what the database refused is repeated; nil: a growing pause with jitter.
	Pause  func(ctx context.Context, try int) error
	Now    func() time.Time
	Logger *slog.Logger
}

func (c dispatcherConfig) withDefaults() dispatcherConfig {
	if c.MaxAttempts <= 0 {
		c.MaxAttempts = defaultMaxAttempts
	}
	if c.Backoff == nil {
		c.Backoff = defaultBackoff
	}
	if c.Pause == nil {
		c.Pause = pause
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// handlerPatience is how often one message's handler may ask to try again before the message is parked, so that the others get
// their turn.
const handlerPatience = 5

// dispatcher runs the handlers of one subscription: each message once in effect, in the order of its key.
//
// A message's way: claimed (its barrier row is written), decided (decide.go), executed or parked in the same transaction, and
// only after the commit a receipt. Whatever goes wrong before the commit leaves nothing behind.
type dispatcher struct {
	cfg dispatcherConfig
	log *slog.Logger
	uid string
	// mu serialises batches and parked messages.
	mu sync.Mutex
	// wake gets a token when there may be something new for runParked.
	wake chan struct{}
	// crowded: the last batch had messages that were not simply run, so the next may be worth sifting.
	crowded bool
}

func newDispatcher(cfg dispatcherConfig) *dispatcher {
	cfg = cfg.withDefaults()
	sub := cfg.Subscription
	return &dispatcher{
		cfg: cfg, uid: sub.UID, wake: make(chan struct{}, 1),
		log: cfg.Logger.With("topic", sub.Topic, "subscription", sub.Name, "uid", sub.UID),
	}
}

// process executes or parks a batch, from the topic or from the subscription's inbox, and sends its receipts. nil settles the
// batch; the error is the context's alone, since what the database refuses is repeated in place.
func (d *dispatcher) process(ctx context.Context, batch []broker.Delivery) error {
	if len(batch) == 0 {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	items := itemsOf(batch)
	err := d.executeBatch(ctx, items)
	d.crowded = len(withVerdict(items, verdictRun)) < len(items)
	d.sendReceipts(ctx, items)
	return err
}

func (d *dispatcher) executeBatch(ctx context.Context, items []*item) error {
	if d.cfg.Shared {
		return d.execute(ctx, items)
	}
	if len(items) > 1 && (d.crowded || looksRepeated(items)) {
		if err := d.persist(ctx, "sift a batch", func() error { return d.sift(ctx, items) }); err != nil {
			return err
		}
	}
	return d.singly(ctx, items)
}

func looksRepeated(items []*item) bool {
	for _, it := range items {
		if it.Redelivered || it.Attempt > 1 {
			return true
		}
	}
	return false
}

// singly gives each message a transaction of its own, in message order. Slow handlers do not keep the receipts of the messages
// before them waiting for the whole batch.
func (d *dispatcher) singly(ctx context.Context, items []*item) error {
	told := d.cfg.Now()
	for _, it := range items {
		if it.settled {
			continue
		}
		if err := d.execute(ctx, []*item{it}); err != nil {
			return err
		}
		if now := d.cfg.Now(); now.Sub(told) >= time.Second {
			d.sendReceipts(ctx, items)
			told = now
		}
	}
	return nil
}

// halves executes a batch in two parts: what deadlocked as a whole meets fewer others in parts.
func (d *dispatcher) halves(ctx context.Context, items []*item) error {
	if err := d.execute(ctx, items[:len(items)/2]); err != nil {
		return err
	}
	return d.execute(ctx, items[len(items)/2:])
}

// execute brings the items to an end in one transaction if that works, and in smaller ones if not.
func (d *dispatcher) execute(ctx context.Context, items []*item) error {
	for try := 1; len(items) > 0; try++ {
		err := d.attempt(ctx, items)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("topics: stopped in a batch of %s: %w", d.cfg.Subscription.Name, ctx.Err())
		}
		var failed *handlerError
		switch {
		case errors.As(err, &failed):
			if failed.ended {
				if items, err = d.buryCommitted(ctx, items); err != nil || len(items) == 0 {
					return err
				}
			}
			again := d.tryAgain(failed.err)
			switch {
			case len(items) > 1 && again:
				return d.halves(ctx, items)
			case len(items) > 1:
				return d.singly(ctx, items)
			case items[0] != failed.it:
				continue // the one that failed is buried; this one has done nothing yet
			case !again || try >= handlerPatience:
				return d.parkFailed(ctx, items[0], failed.err)
			}
		case errors.Is(err, ErrTransactionLost):
			rest, err := d.buryLost(ctx, items, err)
			if err != nil {
				return err
			}
			items = rest
			continue
		case d.tryAgain(err) && len(items) > 1 && !errors.Is(err, errBegin):
			return d.halves(ctx, items)
		}
		d.log.Warn("transaction repeated", "messages", len(items), "try", try, "error", err)
		if err := d.cfg.Pause(ctx, try); err != nil {
			return fmt.Errorf("topics: stopped while the database of %s does not work: %w", d.cfg.Subscription.Name, err)
		}
	}
	return nil
}

// persist repeats fn until the database takes it. What it is given must find out by itself what an earlier try has done.
func (d *dispatcher) persist(ctx context.Context, what string, fn func() error) error {
	for try := 1; ; try++ {
		err := fn()
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			d.log.Warn("database: repeated", "operation", what, "try", try, "error", err)
		}
		if d.cfg.Pause(ctx, try) != nil {
			return fmt.Errorf("topics: %s: stopped: %w", what, ctx.Err())
		}
	}
}

// awake tells the runner of parked messages to look again.
func (d *dispatcher) awake() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}
