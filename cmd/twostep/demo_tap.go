package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/cmd/bank/ledger"
)

const (
	// copyPerMille of the messages are delivered again.
	copyPerMille = 50
	// copyDelay lets the original arrive first, and be executed; so it is the barrier that recognises the copy.
	copyDelay = 300 * time.Millisecond
	copyEvery = 50 * time.Millisecond
)

// demoTap reads the topic beside the subscriptions, without being one: nobody waits for its receipts. It publishes copies of some
// messages: the same message under another position on the broker.
type demoTap struct {
	r    *demoRun
	spec broker.SubscriptionSpec

	mu      sync.Mutex
	copied  map[string]bool // message ids; the tap reads its own copies, too
	waiting []demoCopy
}

type demoCopy struct {
	m  *broker.Message
	at time.Time
}

func newDemoTap(r *demoRun) (*demoTap, error) {
	t := &demoTap{r: r, spec: broker.SubscriptionSpec{UID: r.plan.Tap, Topic: ledger.TransIn.Name()}, copied: map[string]bool{}}
	return t, r.broker.EnsureSubscription(r.ctx, t.spec)
}

// run copies until ctx ends.
func (t *demoTap) run(ctx context.Context) error {
	var copies sync.WaitGroup
	defer copies.Wait()
	copies.Go(func() { t.publishUntil(ctx) })
	return t.r.broker.Consume(ctx, broker.Source{Subscription: t.spec}, func(_ context.Context, ds []broker.Delivery) error {
		t.mu.Lock()
		defer t.mu.Unlock()
		for _, d := range ds {
			if !t.copied[d.ID] && t.r.plan.Chance("deliver again", d.GID, copyPerMille) {
				t.copied[d.ID] = true
				t.waiting = append(t.waiting, demoCopy{d.Message, time.Now().Add(copyDelay)})
			}
		}
		return nil
	})
}

func (t *demoTap) publishUntil(ctx context.Context) {
	tick := time.NewTicker(copyEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if due := t.due(time.Now()); len(due) > 0 {
			t.publish(ctx, due)
		}
	}
}

func (t *demoTap) due(now time.Time) []*broker.Message {
	t.mu.Lock()
	defer t.mu.Unlock()
	var due []*broker.Message
	for _, c := range t.waiting {
		if c.at.After(now) {
			break
		}
		due = append(due, c.m)
	}
	return due
}

// publish publishes the first of the waiting copies. A copy that may be lost is nothing to repeat: it is one more message than needed.
func (t *demoTap) publish(ctx context.Context, due []*broker.Message) {
	var acks sync.WaitGroup
	acks.Add(len(due))
	t.r.broker.Publish(ctx, due, func(int, broker.Position, error) { acks.Done() })
	acks.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting = t.waiting[len(due):]
}

// idle reports whether nothing waits to be copied.
func (t *demoTap) idle() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.waiting) == 0
}

// quiet reports whether the tap and every subscription have read everything on the topic, and nothing is left to copy.
func (t *demoTap) quiet(ctx context.Context) (bool, error) {
	if !t.idle() {
		return false, nil
	}
	uid, err := t.r.subscription(ctx)
	if err != nil {
		return false, err
	}
	ps, err := t.r.broker.Positions(ctx, t.spec.Topic, []string{uid, t.spec.UID})
	if errors.Is(err, broker.ErrNoTopic) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("positions of %s: %w", t.spec.Topic, err)
	}
	for _, reader := range []string{uid, t.spec.UID} {
		floor := ps.Floor[reader]
		for partition, last := range ps.Last {
			if floor == nil || floor[partition] < last {
				return false, nil
			}
		}
	}
	return t.idle(), nil
}
