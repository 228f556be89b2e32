package nats

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/twostep-mq/twostep/broker"
)

const (
	// defaultBatch is the largest batch a handler gets unless the source says otherwise.
	defaultBatch = 500
	// bindPause is the wait before a reader is made again, doubled up to bindPauseMax.
	bindPause    = 20 * time.Millisecond
	bindPauseMax = 500 * time.Millisecond
	// handBackPause is how long a reader whose handler keeps failing leaves the field to others.
	handBackPause = time.Second
	// clockSlack is taken off a time of ours before the broker compares it with its own.
	clockSlack = time.Minute
)

// Consume reads a subscription or an inbox. A batch is what has come while the handler ran, with no lingering; as much again is
// fetched ahead.
//
// When the handler fails, the same batch is given to it again, in place and marked Redelivered, so that order is kept; after
// some failures everything is handed back to the broker for another process to try. Of the readers of a keyed
// subscription or an inbox one gets messages and the others stand by. Whoever takes over, after Config.PinTTL or at once
// if the one before said goodbye, starts at the first message that is not settled, so that nothing is skipped and order is
// kept; messages that the one before had are marked Redelivered.
func (b *Broker) Consume(ctx context.Context, src broker.Source, handle func(context.Context, []broker.Delivery) error) error {
	if err := checkSource(src); err != nil {
		return err
	}
	c := &consumption{b: b, src: src, began: time.Now()}
	wait := bindPause
	for ctx.Err() == nil {
		if b.isClosed() {
			return broker.ErrClosed
		}
		r, err := c.bind(ctx)
		if err == nil {
			err = r.run(ctx, handle)
			r.leave(ctx, err)
			if r.delivered {
				wait = bindPause
			}
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errNameTaken):
			return err
		case errors.Is(err, errHandedBack):
			wait = handBackPause
		}
		b.log.Warn("reader starts again", "source", sourceName(src), "reason", err, "wait", wait)
		pause(ctx, wait)
		wait = min(wait*2, bindPauseMax)
	}
	return nil
}

func checkSource(src broker.Source) error {
	if src.Inbox != "" {
		return checkName("inbox", src.Inbox)
	}
	if err := checkName("topic", src.Subscription.Topic); err != nil {
		return err
	}
	return checkName("subscription uid", src.Subscription.UID)
}

func sourceName(src broker.Source) string {
	if src.Inbox != "" {
		return "inbox " + src.Inbox
	}
	return "topic " + src.Subscription.Topic + " subscription " + src.Subscription.UID
}

// consumption is one call of Consume: it makes readers, one after the other.
type consumption struct {
	b     *Broker
	src   broker.Source
	began time.Time
	// identity of the stream that the last reader read.
	identity string
}

// bind makes the stream and the consumer if they are not there, and a reader.
func (c *consumption) bind(ctx context.Context) (*reader, error) {
	b := c.b
	if err := b.waitConnected(ctx, b.cfg.AckTimeout); err != nil {
		return nil, err
	}
	var (
		stream   *jetstream.StreamInfo
		consumer *jetstream.ConsumerInfo
		err      error
	)
	if c.src.Inbox != "" {
		stream, consumer, err = b.ensureInbox(ctx, c.src.Inbox)
	} else {
		stream, consumer, err = c.bindSubscription(ctx)
	}
	if err != nil {
		return nil, err
	}
	c.identity = streamID(stream)
	batch := c.src.MaxBatch
	if batch <= 0 {
		batch = defaultBatch
	}
	pinned := len(consumer.Config.PriorityGroups) > 0
	return &reader{
		b: b, topic: c.src.Subscription.Topic, name: sourceName(c.src), batch: batch, pinned: pinned,
		stream: stream.Config.Name, identity: c.identity, consumer: consumer.Name, made: consumer.Created,
		puller: newPuller(b.nc, stream.Config.Name, consumer.Name, pinned, batch),
	}, nil
}

// bindSubscription chooses where a consumer begins that has to be made: on a stream made anew, at its beginning, for all of it
// came after the subscription.
func (c *consumption) bindSubscription(ctx context.Context) (*jetstream.StreamInfo, *jetstream.ConsumerInfo, error) {
	s := c.src.Subscription
	stream, err := c.b.ensureTopicStream(ctx, broker.TopicSpec{Name: s.Topic})
	if err != nil {
		return nil, nil, fmt.Errorf("broker/nats: make topic %q again: %w", s.Topic, err)
	}
	start := jetstream.DeliverByStartTimePolicy
	switch {
	case c.identity != "" && c.identity != streamID(stream):
		start = jetstream.DeliverAllPolicy
	case c.identity == "" && s.Since == 0:
		start = jetstream.DeliverNewPolicy
	case s.Since == 0:
		s.Since = c.began.Add(-clockSlack).UnixNano()
	}
	consumer, err := c.b.ensureSubscription(ctx, s, start)
	if err != nil {
		return nil, nil, err
	}
	return stream, consumer, nil
}
