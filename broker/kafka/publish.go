package kafka

import (
	"context"
	"errors"
	"fmt"

	"github.com/twostep-mq/twostep/broker"
)

// Publish hands messages to the lanes of their partitions, in order and without waiting for acknowledgements. A message is tried for
// Config.AckTimeout. done may be called before Publish returns, also by this goroutine, and must not block.
func (b *Broker) Publish(ctx context.Context, ms []*broker.Message, done func(i int, p broker.Position, err error)) {
	failed := map[string]error{} // topics that could not be looked up: asked once a call
	for i, m := range ms {
		err := failed[m.Topic]
		if err == nil {
			var looked bool
			looked, err = b.publishOne(ctx, m, func(p broker.Position, err error) { done(i, p, wrapPublish(m, err)) })
			if err != nil && !looked {
				failed[m.Topic] = err
			}
		}
		if err != nil {
			done(i, broker.Position{}, wrapPublish(m, err))
		}
	}
}

func wrapPublish(m *broker.Message, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("broker/kafka: publish to topic %q: %w", m.Topic, err)
}

// publishOne queues a message. looked: its topic is known, so an error is the message's own.
func (b *Broker) publishOne(ctx context.Context, m *broker.Message, done func(broker.Position, error)) (looked bool, err error) {
	if b.isClosed() {
		return false, broker.ErrClosed
	}
	if err := checkName("topic", m.Topic); err != nil {
		return false, err
	}
	topic := b.names.topic(m.Topic)
	info, err := b.lookForPublish(ctx, topic)
	if err != nil {
		return false, err
	}
	r, err := encode(m)
	if err != nil {
		return true, err
	}
	return true, b.pub.send(ctx, lanePlace{topic, partitionOf(m, info.numbers)}, r, done)
}

// lookForPublish looks a topic up, waiting a lost connection out for as long as a publish may take.
func (b *Broker) lookForPublish(ctx context.Context, topic string) (topicInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.AckTimeout)
	defer cancel()
	for wait := retryPause; ; wait = min(2*wait, retryPauseMax) {
		info, err := b.topics.get(ctx, topic)
		if err == nil || errors.Is(err, broker.ErrNoTopic) || !passing(err) || !pause(ctx, wait) {
			return info, explain(err, "describe the topic")
		}
		b.renew()
	}
}
