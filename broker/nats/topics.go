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
	// maxAckPending bounds what all readers of a subscription hold together: five processes with a full batch in the handler
	// and one waiting.
	maxAckPending = 5000
	// pinGroup is the one priority group of readers that stand by for each other.
	pinGroup = "reader"
)

// EnsureTopic makes the topic's stream: in a file, Limits retention, the oldest dropped when it is full, or refusing
// new messages, and dropping those of a week, if the topic is Retained. A stream that is there is left as it is, unless a reader or a
// relay that did not know of the retention was first, as after the broker was wiped.
func (b *Broker) EnsureTopic(ctx context.Context, t broker.TopicSpec) error {
	if err := checkName("topic", t.Name); err != nil {
		return err
	}
	stream, err := b.ensureTopicStream(ctx, t)
	if err == nil && t.Retained && stream.Config.Discard != jetstream.DiscardNew {
		cfg := stream.Config
		cfg.Discard, cfg.MaxAge = jetstream.DiscardNew, retainedMaxAge
		if b.cfg.DeclareOff {
			return fmt.Errorf("broker/nats: topic %q: %w as it should be: %s drops old messages, and this topic must refuse new ones (discard new)", t.Name, ErrNotDeclared, cfg.Name)
		}
		err = b.api(ctx, func(ctx context.Context) error {
			_, err := b.js.UpdateStream(ctx, cfg)
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("broker/nats: make topic %q: %w", t.Name, err)
	}
	return nil
}

func (b *Broker) ensureTopicStream(ctx context.Context, t broker.TopicSpec) (*jetstream.StreamInfo, error) {
	return b.ensureStream(ctx, b.cfg.topicStream(t))
}

// DeleteTopic removes the stream with its readers.
func (b *Broker) DeleteTopic(ctx context.Context, topic string) error {
	if err := checkName("topic", topic); err != nil {
		return err
	}
	b.ids.forget(topic)
	err := b.api(ctx, func(ctx context.Context) error { return b.js.DeleteStream(ctx, b.names.topicStream(topic)) })
	if err != nil && !noStream(err) {
		return fmt.Errorf("broker/nats: delete topic %q: %w", topic, err)
	}
	return nil
}

// EnsureSubscription makes the durable consumer named by the uid.
func (b *Broker) EnsureSubscription(ctx context.Context, s broker.SubscriptionSpec) error {
	start := jetstream.DeliverNewPolicy
	if s.Since != 0 {
		start = jetstream.DeliverByStartTimePolicy
	}
	_, err := b.ensureSubscription(ctx, s, start)
	return err
}

// ensureSubscription makes the consumer, beginning where start says; one that is there is left as it is.
func (b *Broker) ensureSubscription(ctx context.Context, s broker.SubscriptionSpec, start jetstream.DeliverPolicy) (*jetstream.ConsumerInfo, error) {
	if err := checkName("topic", s.Topic); err != nil {
		return nil, err
	}
	if err := checkName("subscription uid", s.UID); err != nil {
		return nil, err
	}
	cfg := b.consumerConfig(flat(s.UID), s.Keyed)
	cfg.DeliverPolicy = start
	if start == jetstream.DeliverByStartTimePolicy {
		since := time.Unix(0, s.Since)
		cfg.OptStartTime = &since
	}
	info, err := b.ensureConsumer(ctx, b.names.topicStream(s.Topic), cfg)
	if noStream(err) {
		return nil, fmt.Errorf("broker/nats: subscription %s of topic %q: %w", s.UID, s.Topic, broker.ErrNoTopic)
	}
	if err != nil {
		return nil, fmt.Errorf("broker/nats: subscription %s of topic %q: %w", s.UID, s.Topic, err)
	}
	return info, nil
}

// consumerConfig is what all readers have in common. Pinned: one process at a time gets messages, the others stand by.
func (b *Broker) consumerConfig(durable string, pinned bool) jetstream.ConsumerConfig {
	cfg := jetstream.ConsumerConfig{
		Durable:       durable,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       b.cfg.AckWait,
		MaxDeliver:    -1,
		MaxAckPending: maxAckPending,
	}
	if pinned {
		cfg.PriorityPolicy = jetstream.PriorityPolicyPinned
		cfg.PriorityGroups = []string{pinGroup}
		cfg.PinnedTTL = b.cfg.PinTTL
	}
	return cfg
}

func (b *Broker) ensureConsumer(ctx context.Context, stream string, cfg jetstream.ConsumerConfig) (*jetstream.ConsumerInfo, error) {
	var c jetstream.Consumer
	err := b.api(ctx, func(ctx context.Context) (err error) {
		c, err = b.js.Consumer(ctx, stream, cfg.Durable)
		if !noConsumer(err) {
			return err
		}
		c, err = b.js.CreateConsumer(ctx, stream, cfg)
		if errors.Is(err, jetstream.ErrConsumerExists) { // somebody else was first, with another start
			c, err = b.js.Consumer(ctx, stream, cfg.Durable)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return c.CachedInfo(), nil
}

// DeleteSubscription removes the durable consumer.
func (b *Broker) DeleteSubscription(ctx context.Context, topic, uid string) error {
	if err := checkName("topic", topic); err != nil {
		return err
	}
	if err := checkName("subscription uid", uid); err != nil {
		return err
	}
	err := b.api(ctx, func(ctx context.Context) error {
		return b.js.DeleteConsumer(ctx, b.names.topicStream(topic), flat(uid))
	})
	if err != nil && !noConsumer(err) && !noStream(err) {
		return fmt.Errorf("broker/nats: delete subscription %s of topic %q: %w", uid, topic, err)
	}
	return nil
}
