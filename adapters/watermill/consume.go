package watermill

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/twostep-mq/twostep/broker"
)

const (
	// againPause follows a batch that the handler failed, and a subscription that ended by itself; doubled up to againPauseMost.
	againPause     = 50 * time.Millisecond
	againPauseMost = time.Second
	// inPlace is how often a failing handler is given messages before its subscriber is closed, and others get them.
	inPlace = 5
	// followWait is how long an inbox's next message is waited for before a batch is handed on.
	followWait = 5 * time.Millisecond
	// triedMost bounds the memory of failed messages.
	triedMost = 10_000
)

var errHandedBack = errors.New("adapters/watermill: the handler keeps failing")

var errEnded = errors.New("adapters/watermill: the pub/sub ended the subscription")

// Consume reads a subscription, which is a consumer group of its uid, or an inbox. A batch is what the pub/sub's subscriber has ready. The
// messages of a batch that failed are nacked, and are Redelivered when they come again to this process; another one is not warned.
func (b *Broker) Consume(ctx context.Context, src broker.Source, handle func(context.Context, []broker.Delivery) error) error {
	r := reading{b: b, group: src.Inbox, handle: handle, most: src.MaxBatch, tried: map[string]bool{}}
	var err error
	if src.Inbox != "" {
		r.name, err = b.inboxName(src.Inbox)
	} else {
		r.topic, r.group = src.Subscription.Topic, src.Subscription.UID
		r.name, err = b.topicName(src.Subscription.Topic)
	}
	if err != nil {
		return err
	}
	if r.most <= 0 {
		r.most = b.cfg.MaxBatch
	}
	wait := againPause
	for ctx.Err() == nil {
		if b.life.ctx.Err() != nil {
			return broker.ErrClosed
		}
		began := time.Now()
		err := r.run(ctx)
		if ctx.Err() != nil {
			return nil
		}
		switch {
		case errors.Is(err, errHandedBack):
			wait = againPauseMost
		case time.Since(began) > againPauseMost:
			wait = againPause
		}
		b.log.Warn("reader starts again", "name", r.name, "group", r.group, "reason", err, "wait", wait)
		pause(ctx, wait)
		wait = min(2*wait, againPauseMost)
	}
	return nil
}

// reading is one call of Consume.
type reading struct {
	b                  *Broker
	topic, name, group string
	most               int
	handle             func(context.Context, []broker.Delivery) error
	// tried are messages that the handler failed here.
	tried map[string]bool
}

// run reads with one subscriber. It is closed after the answer to the last batch, so that this counts.
func (r *reading) run(ctx context.Context) (err error) {
	ctx, cancel := r.b.life.within(ctx)
	defer cancel()
	sub, err := r.b.subs(r.group)
	if err != nil {
		return fmt.Errorf("adapters/watermill: make a subscriber of group %s: %w", r.group, err)
	}
	defer func() { err = errors.Join(err, sub.Close()) }()
	open, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	if err := r.b.ensure(ctx, r.name); err != nil {
		return err
	}
	cut := context.AfterFunc(ctx, end) // it may wait for the pub/sub
	from, err := sub.Subscribe(open, r.name)
	cut()
	if err != nil {
		return fmt.Errorf("adapters/watermill: subscribe to %s as %s: %w", r.name, r.group, err)
	}
	if r.topic == "" {
		return r.inbox(ctx, from)
	}
	for failed := 0; ; {
		batch, err := r.take(ctx, from)
		if err != nil {
			return err
		}
		ds := r.deliveries(batch)
		if err := r.handle(ctx, ds); err != nil {
			r.refused(batch, err)
			if failed++; failed == inPlace {
				return errHandedBack // for another process to try
			}
			pause(ctx, againPause<<failed)
			continue
		}
		failed = 0
		for _, w := range batch {
			delete(r.tried, w.UUID)
			w.Ack()
		}
	}
}

// inbox acknowledges messages as it takes them: most subscribers hand out the next one only then, and a relay settles its receipts ten
// times a second. What a process that is killed had taken is sent again: receipts when their rows are, and those are sent again for as
// long as they have no receipt.
func (r *reading) inbox(ctx context.Context, from <-chan *message.Message) error {
	for {
		batch, err := r.take(ctx, from)
		if err != nil {
			return err
		}
		ds := r.deliveries(batch)
		for failed := 1; ; failed++ {
			err := r.handle(ctx, ds)
			if err == nil {
				break
			}
			r.b.log.Warn("handler failed", "name", r.name, "messages", len(ds), "error", err)
			if pause(ctx, againPause<<min(failed, inPlace)); ctx.Err() != nil {
				return ctx.Err()
			}
			for i := range ds {
				ds[i].Redelivered = true
			}
		}
	}
}

// take waits for a message and takes with it what comes at once; of an inbox what follows closely, and acknowledges it.
func (r *reading) take(ctx context.Context, from <-chan *message.Message) ([]*message.Message, error) {
	w, err := r.next(ctx, from, nil)
	if err != nil {
		return nil, err
	}
	batch := []*message.Message{}
	for w != nil {
		batch = append(batch, w)
		wait := time.Duration(0)
		if r.topic == "" {
			w.Ack()
			wait = followWait
		}
		if len(batch) == r.most {
			break
		}
		w, _ = r.next(ctx, from, time.After(wait)) // the next call has the error again
	}
	return batch, nil
}

// next waits for a message until enough says so; nil then.
func (r *reading) next(ctx context.Context, from <-chan *message.Message, enough <-chan time.Time) (*message.Message, error) {
	select {
	case w, more := <-from:
		if !more {
			return nil, errEnded
		}
		return w, nil
	default:
	}
	select {
	case w, more := <-from:
		if !more {
			return nil, errEnded
		}
		return w, nil
	case <-enough:
		return nil, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (r *reading) deliveries(batch []*message.Message) []broker.Delivery {
	ds := make([]broker.Delivery, len(batch))
	now := time.Now()
	for i, w := range batch {
		ds[i] = broker.Delivery{Message: unwrap(w, r.topic), Position: positionAt(now), Redelivered: r.tried[w.UUID], Stored: now}
	}
	return ds
}

// refused gives a batch back that the handler failed.
func (r *reading) refused(batch []*message.Message, err error) {
	r.b.log.Warn("handler failed", "name", r.name, "messages", len(batch), "error", err)
	if len(r.tried) > triedMost {
		clear(r.tried) // others have settled them
	}
	for _, w := range batch {
		r.tried[w.UUID] = true
		w.Nack()
	}
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
