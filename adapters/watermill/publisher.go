package watermill

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/outbox"
)

// ErrClosed: Close was called.
var ErrClosed = errors.New("adapters/watermill: closed")

// PublisherConfig configures a Publisher. The zero value works.
type PublisherConfig struct {
	// Retained: topics that the publisher makes refuse new messages when they are full, rather than dropping the oldest. Nobody sends
	// again what was published without an outbox.
	Retained bool
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Publisher is a Watermill publisher on a broker, without an outbox: what it publishes has left when Publish returns nil, whatever
// becomes of the caller's transaction, and the broker alone keeps it. See OutboxPublisher for the other kind.
type Publisher struct {
	b    broker.Broker
	cfg  PublisherConfig
	life life
}

var _ message.Publisher = (*Publisher)(nil)

// NewPublisher makes a publisher on b, which stays the caller's to close.
func NewPublisher(b broker.Broker, cfg PublisherConfig) *Publisher {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Publisher{b: b, cfg: cfg, life: newLife()}
}

// Publish sends the messages in order and returns when the broker has acknowledged all of them. A topic that is not there is made. On
// an error some may be stored. It gives up when the context of one of the messages ends.
func (p *Publisher) Publish(topic string, messages ...*message.Message) error {
	if !p.life.begin() {
		return ErrClosed
	}
	defer p.life.end()
	if err := outbox.ValidTopic(topic); err != nil {
		return fmt.Errorf("adapters/watermill: publish: %w", err)
	}
	ms := make([]*broker.Message, len(messages))
	for i, m := range messages {
		out, err := encode(m)
		if err != nil {
			return err
		}
		id, err := identity(m)
		if err != nil {
			return err
		}
		ms[i] = &broker.Message{
			ID: id, GID: id, Topic: topic, Key: out.key, ContentType: out.contentType, Payload: out.payload, Headers: out.headers,
			Time: p.cfg.Now(), Attempt: 1,
		}
	}
	ctx, release := contextOf(messages)
	defer release()
	left, err := p.send(ctx, ms)
	if errors.Is(err, broker.ErrNoTopic) {
		if err := p.b.EnsureTopic(ctx, broker.TopicSpec{Name: topic, Retained: p.cfg.Retained}); err != nil {
			return fmt.Errorf("adapters/watermill: make topic %s: %w", topic, err)
		}
		left, err = p.send(ctx, left)
	}
	if err != nil {
		return fmt.Errorf("adapters/watermill: publish to %s: %d of %d messages have no acknowledgement: %w", topic, len(left), len(ms), err)
	}
	return nil
}

// send returns the messages that were not acknowledged, and the first error.
func (p *Publisher) send(ctx context.Context, ms []*broker.Message) (left []*broker.Message, err error) {
	var wg sync.WaitGroup
	wg.Add(len(ms))
	errs := make([]error, len(ms))
	p.b.Publish(ctx, ms, func(i int, _ broker.Position, err error) {
		errs[i] = err
		wg.Done()
	})
	wg.Wait() // the adapter bounds it
	for i, e := range errs {
		if e != nil {
			left = append(left, ms[i])
			if err == nil {
				err = e
			}
		}
	}
	return left, err
}

// Close waits for the calls of Publish that run. The broker stays open.
func (p *Publisher) Close() error {
	p.life.close()
	return nil
}

// contextOf ends as soon as the context of one of the messages does.
func contextOf(messages []*message.Message) (ctx context.Context, release func()) {
	ctx, cancel := context.WithCancel(context.Background())
	stops := []func() bool{}
	for _, m := range messages {
		if m.Context().Err() != nil {
			cancel()
		}
		if m.Context().Done() != nil {
			stops = append(stops, context.AfterFunc(m.Context(), cancel))
		}
	}
	return ctx, func() {
		for _, stop := range stops {
			stop()
		}
		cancel()
	}
}
