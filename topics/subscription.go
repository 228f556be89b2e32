package topics

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/outbox"
)

const (
	// declareAgain is how often a declaration that nobody answered is repeated.
	declareAgain = 5 * time.Second
	// lookAgain is how often the parked messages are looked at without a reason: other processes park and replay, too.
	lookAgain = 15 * time.Second
)

// serve runs one handler: it waits for its subscription, runs it until it is removed, and then waits for it to be made again.
func (a *App) serve(ctx context.Context, h *handling) error {
	declare := a.cfg.Declare == DeclareOn
	for first := true; ; first = false {
		found, err := a.await(ctx, h, declare)
		if err != nil || ctx.Err() != nil {
			return err
		}
		if found.topic.TopicSettings != h.settings {
			a.log.Warn("the topic was made with other settings than the code has; the topic's count", "topic", h.topic,
				"topic_settings", found.topic.TopicSettings, "code_settings", h.settings)
		}
		if first {
			a.oneReady()
		}
		if h.topicOnly {
			return nil
		}
		if err := a.runUntilRemoved(ctx, h, found); err != nil || ctx.Err() != nil {
			return err
		}
		// Removed by hand: this process does not bring it back.
		declare = false
		if a.cfg.Declare == DeclareOff {
			return nil
		}
	}
}

// await waits until the registry has the topic and the subscription. declare: it asks for them.
func (a *App) await(ctx context.Context, h *handling, declare bool) (look, error) {
	began := a.cfg.Now()
	var asked time.Time
	losses := -1
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		l := a.view.look(h.topic, h.subscription)
		if l.topicKnown && (l.subscribed || h.topicOnly) {
			return l, nil
		}
		now := a.cfg.Now()
		if a.cfg.Declare == DeclareOff && (l.complete || now.Sub(began) >= a.cfg.RegistryTimeout) {
			return l, a.missing(h, l)
		}
		if declare && l.current && (losses != l.losses || now.Sub(asked) >= declareAgain) {
			if losses >= 0 {
				a.log.Warn("waiting for the registry's owner (twostep serve) to register", "topic", h.topic, "subscription", h.subscription)
			}
			if err := a.declare(ctx, h, outbox.RegistrySubscription{}); err != nil {
				a.log.Warn("declaration not sent; it is repeated", "topic", h.topic, "subscription", h.subscription, "error", err)
			}
			asked, losses = now, l.losses
		}
		select {
		case <-ctx.Done():
			return l, nil
		case <-l.changed:
		case <-tick.C:
		}
	}
}

func (a *App) missing(h *handling, l look) error {
	switch {
	case !l.complete && !l.topicKnown:
		return fmt.Errorf("%w %q: declare is off, and no registry appeared on the broker within %s: start twostep serve, then run: twostep topics create %s", ErrUnknownTopic, h.topic, a.cfg.RegistryTimeout, h.topic)
	case !l.topicKnown:
		return fmt.Errorf("%w %q: declare is off, so make it first: twostep topics create %s", ErrUnknownTopic, h.topic, h.topic)
	default:
		return fmt.Errorf("%w %q of topic %q: declare is off, so make it first: twostep topics subscribe %s %s", ErrUnknownSubscription, h.subscription, h.topic, h.topic, h.subscription)
	}
}

// declare asks the registry's owner for topic and subscription; known is what it answered before, if it did.
func (a *App) declare(ctx context.Context, h *handling, known outbox.RegistrySubscription) error {
	d := Declaration{Topic: h.topic, Settings: h.settings, Subscription: h.subscription, UID: known.UID, Created: known.Created}
	value, err := d.encode()
	if err != nil {
		return err
	}
	return a.b.PutState(ctx, d.key(), value)
}

// runUntilRemoved runs the subscription until ctx ends or the registry says that it is removed.
func (a *App) runUntilRemoved(ctx context.Context, h *handling, l look) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var watch sync.WaitGroup
	defer watch.Wait()
	defer stop()
	watch.Go(func() {
		losses := l.losses
		for {
			now := a.view.look(h.topic, h.subscription)
			if now.losses != losses && now.current && a.cfg.Declare == DeclareOn {
				// The broker lost its state. If the registry is gone with it, nobody else may know this subscription.
				if err := a.declare(ctx, h, l.sub); err != nil {
					a.log.Warn("declaration not sent", "topic", h.topic, "subscription", h.subscription, "error", err)
				} else {
					losses = now.losses
				}
			}
			removed, changed := a.view.removed(h.topic, l.sub.UID)
			if removed {
				a.log.Warn("subscription was removed: its handler stops; what it has parked stays in the database", "topic", h.topic, "subscription", h.subscription, "uid", l.sub.UID)
				stop()
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
		}
	})
	return a.runSubscription(ctx, h, l)
}

// runSubscription reads the topic and the subscription's inbox, runs parked messages and answers requests, until ctx ends.
func (a *App) runSubscription(ctx context.Context, h *handling, l look) error {
	sub := l.sub
	d := newDispatcher(dispatcherConfig{
		Subscription: sub, Store: a.store, Send: a.b.Send,
		Handler: func(ctx context.Context, tx outbox.Tx, dl broker.Delivery) error { return h.handler(ctx, tx, dl, sub) },
		Shared:  h.shared, HoldOnDead: h.holdOnDead(), MaxAttempts: h.maxAttempts, Backoff: h.backoff, Now: a.cfg.Now, Logger: a.log,
	})
	work, release := a.drainable(ctx)
	defer release()
	inbox := outbox.SubscriptionInbox(sub.UID)
	stopAnswering, err := a.b.Answer(ctx, inbox, d.answer)
	if err != nil {
		return fmt.Errorf("topics: answer requests for %s: %w", h.name(), err)
	}
	defer stopAnswering()
	a.log.Info("subscription runs", "topic", h.topic, "subscription", h.subscription, "uid", sub.UID, "shared", h.shared)

	readers, ctx := errgroup.WithContext(ctx)
	for _, src := range []broker.Source{
		{Subscription: broker.SubscriptionSpec{UID: sub.UID, Topic: h.topic, Keyed: l.topic.Keyed, Since: sub.Created}, MaxBatch: h.maxBatch},
		{Inbox: inbox, MaxBatch: h.maxBatch},
	} {
		handle := d.within(ctx, work)
		if h.shared && src.Inbox == "" {
			handle = paced(ctx, h.maxBatch, handle)
		}
		readers.Go(func() error {
			if err := a.b.Consume(ctx, src, handle); err != nil && ctx.Err() == nil {
				return fmt.Errorf("topics: read %s%s for %s: %w", src.Subscription.Topic, src.Inbox, h.name(), err)
			}
			return nil
		})
	}
	readers.Go(func() error {
		d.runner(ctx, work)
		return nil
	})
	return readers.Wait()
}

// drainable is the context handlers work in: it outlives ctx by DrainTimeout at most.
func (a *App) drainable(ctx context.Context) (work context.Context, release func()) {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var timer *time.Timer
	var mu sync.Mutex
	stop := context.AfterFunc(ctx, func() {
		mu.Lock()
		defer mu.Unlock()
		timer = time.AfterFunc(a.cfg.DrainTimeout, cancel)
	})
	return work, func() {
		stop()
		mu.Lock()
		defer mu.Unlock()
		if timer != nil {
			timer.Stop()
		}
		cancel()
	}
}

// within is process for a reader: it works in the context work, which outlives ctx while the process drains, but ends with the
// reader's own context where the broker takes the messages away.
func (d *dispatcher) within(ctx, work context.Context) func(context.Context, []broker.Delivery) error {
	return func(reader context.Context, batch []broker.Delivery) error {
		work, cancel := context.WithCancel(work)
		defer cancel()
		stop := context.AfterFunc(reader, func() {
			if ctx.Err() == nil {
				cancel()
			}
		})
		defer stop()
		return d.process(work, batch)
	}
}

// runner runs parked messages as they become due, until ctx ends; the one that runs then may end in the context work.
func (d *dispatcher) runner(ctx, work context.Context) {
	for try := 0; ctx.Err() == nil; {
		wait := lookAgain
		next, err := d.runParkedUntil(work, ctx.Done())
		switch {
		case err != nil && ctx.Err() == nil:
			try++
			d.log.Warn("parked messages: repeated", "try", try, "error", err)
			wait = jittered(firstStoreWait, maxStoreWait, try)
		case !next.IsZero():
			try = 0
			wait = min(max(next.Sub(d.cfg.Now()), firstStoreWait), lookAgain)
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-d.wake:
		case <-t.C:
		}
		t.Stop()
	}
}
