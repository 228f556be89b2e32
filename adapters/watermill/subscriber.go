package watermill

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

var (
	// errNacked: the message was refused and comes again.
	errNacked = errors.New("adapters/watermill: the message was nacked")
	// errNotTaken is no failure of the message.
	errNotTaken = fmt.Errorf("adapters/watermill: nobody took the message from the channel: %w", topics.ErrTryAgain)
)

// SubscriberConfig configures a Subscriber. The zero value works.
type SubscriberConfig struct {
	// Group shares the messages of a topic among all subscribers that have it, in all processes; each message goes to one of them.
	// Empty: every call of Subscribe is a reader of its own that gets all messages; its place on the broker goes with it.
	Group string
	// FromStart: a group that is new, or a reader without one, begins with the oldest message the broker still has. Otherwise it gets
	// what is published from now on.
	FromStart bool
	// Keyed: one subscriber of the group reads at a time, so that the topic's order is kept whatever their number.
	Keyed bool
	// MaxBatch bounds how many messages are taken from the broker at once; default 1. The messages of a batch are settled together: when
	// the subscriber ends in the middle of one, those of it that were acknowledged come again, too.
	MaxBatch int
	// NackPause is the wait before a nacked message is handed out again; default 100 ms.
	NackPause time.Duration
	// Logger; nil: nothing is logged.
	Logger *slog.Logger
}

func (c SubscriberConfig) withDefaults() SubscriberConfig {
	if c.MaxBatch <= 0 {
		c.MaxBatch = 1
	}
	if c.NackPause <= 0 {
		c.NackPause = 100 * time.Millisecond
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Subscriber is a Watermill subscriber on a broker, without a barrier: a message may come more than once. It also gets what an
// outbox published, each message once on the topic; but nobody waits for it, and what the broker loses it does not get. See
// BarrierSubscriber for the other kind.
type Subscriber struct {
	b    broker.Broker
	cfg  SubscriberConfig
	life life
}

var (
	_ message.Subscriber           = (*Subscriber)(nil)
	_ message.SubscribeInitializer = (*Subscriber)(nil)
)

// NewSubscriber makes a subscriber on b, which stays the caller's to close.
func NewSubscriber(b broker.Broker, cfg SubscriberConfig) *Subscriber {
	return &Subscriber{b: b, cfg: cfg.withDefaults(), life: newLife()}
}

// groupSpace is the namespace of the uids of groups. They differ from those that the registry gives.
var groupSpace = uuid.MustParse("6f0a1c52-8f0e-4c2e-9f6a-3f3c5a6d7b10") //nolint:gochecknoglobals // a constant

func (s *Subscriber) spec(topic string) broker.SubscriptionSpec {
	spec := broker.SubscriptionSpec{UID: uuid.NewString(), Topic: topic, Keyed: s.cfg.Keyed}
	if s.cfg.Group != "" {
		spec.UID = uuid.NewSHA1(groupSpace, []byte(topic+"\x00"+s.cfg.Group)).String()
	}
	if s.cfg.FromStart {
		spec.Since = 1
	}
	return spec
}

// SubscribeInitialize makes the topic, and the group's place on it: from now on it misses nothing.
func (s *Subscriber) SubscribeInitialize(topic string) error {
	if !s.life.begin() {
		return ErrClosed
	}
	defer s.life.end()
	if s.cfg.Group == "" {
		return s.ensureTopic(s.life.ctx, topic)
	}
	return s.ensure(s.life.ctx, s.spec(topic))
}

func (s *Subscriber) ensureTopic(ctx context.Context, topic string) error {
	if err := outbox.ValidTopic(topic); err != nil {
		return fmt.Errorf("adapters/watermill: subscribe: %w", err)
	}
	if err := s.b.EnsureTopic(ctx, broker.TopicSpec{Name: topic}); err != nil {
		return fmt.Errorf("adapters/watermill: make topic %s: %w", topic, err)
	}
	return nil
}

func (s *Subscriber) ensure(ctx context.Context, spec broker.SubscriptionSpec) error {
	if err := s.ensureTopic(ctx, spec.Topic); err != nil {
		return err
	}
	if err := s.b.EnsureSubscription(ctx, spec); err != nil {
		return fmt.Errorf("adapters/watermill: subscribe to %s as %q: %w", spec.Topic, s.cfg.Group, err)
	}
	return nil
}

// Subscribe hands out the topic's messages until ctx ends or Close is called, one at a time: the next comes when the one before was
// acknowledged. A nacked message comes again, before all others.
func (s *Subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	if !s.life.begin() {
		return nil, ErrClosed
	}
	spec := s.spec(topic)
	ctx, release := s.life.within(ctx)
	if err := s.ensure(ctx, spec); err != nil {
		release()
		s.life.end()
		return nil, err
	}
	out := make(chan *message.Message)
	go func() {
		defer s.life.end()
		defer close(out)
		defer release()
		s.read(ctx, spec, out)
		if s.cfg.Group == "" {
			s.forget(ctx, spec)
		}
	}()
	return out, nil
}

func (s *Subscriber) read(ctx context.Context, spec broker.SubscriptionSpec, out chan<- *message.Message) {
	src := broker.Source{Subscription: spec, MaxBatch: s.cfg.MaxBatch}
	err := s.b.Consume(ctx, src, func(ctx context.Context, ds []broker.Delivery) error {
		for _, d := range ds {
			if err := s.deliver(ctx, d, out); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil && ctx.Err() == nil {
		s.cfg.Logger.Error("subscriber ended", "topic", spec.Topic, "group", s.cfg.Group, "error", err)
	}
}

// deliver hands a message out until it is acknowledged.
func (s *Subscriber) deliver(ctx context.Context, d broker.Delivery, out chan<- *message.Message) error {
	for {
		err := hand(ctx, decode(d.Message), out, nil)
		if !errors.Is(err, errNacked) {
			return err
		}
		t := time.NewTimer(s.cfg.NackPause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}

// forget takes the place of a reader without a group off the broker.
func (s *Subscriber) forget(ctx context.Context, spec broker.SubscriptionSpec) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := s.b.DeleteSubscription(ctx, spec.Topic, spec.UID); err != nil {
		s.cfg.Logger.Warn("a reader without a group stays on the broker", "topic", spec.Topic, "uid", spec.UID, "error", err)
	}
}

// Close ends all subscriptions and closes their channels. The broker stays open.
func (s *Subscriber) Close() error {
	s.life.close()
	return nil
}

// hand gives m to whoever reads out and waits for the answer: nil, errNacked, or the context's error; errNotTaken where nobody took it
// until enough said so. m's context, which is derived from ctx, ends with the answer.
func hand(ctx context.Context, m *message.Message, out chan<- *message.Message, enough <-chan time.Time) error {
	of, cancel := context.WithCancel(ctx)
	defer cancel()
	m.SetContext(of)
	select {
	case out <- m:
	case <-enough:
		return errNotTaken
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-m.Acked():
		return nil
	case <-m.Nacked():
		return errNacked
	case <-ctx.Done():
	}
	select {
	case <-m.Acked():
		return nil
	default:
		return ctx.Err()
	}
}
