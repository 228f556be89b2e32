package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twostep-mq/twostep/broker"
)

// lookupWait bounds what one Publish waits for the topics that it does not know.
const lookupWait = 2 * time.Second

// Publish hands messages to the lanes of their partitions, in order and without waiting for acknowledgements. A message is tried for
// Config.AckTimeout. done may be called before Publish returns, also by this goroutine, and must not block.
func (b *Broker) Publish(ctx context.Context, ms []*broker.Message, done func(i int, p broker.Position, err error)) {
	targets := map[string]target{} // each topic is looked up once a call, and all of them do not wait longer than one
	looking, cancel := context.WithTimeout(ctx, min(lookupWait, b.cfg.AckTimeout))
	defer cancel()
	for i, m := range ms {
		to, known := targets[m.Topic]
		if !known {
			to = b.target(looking, m.Topic)
			targets[m.Topic] = to
		}
		err := to.err
		var r record
		if err == nil {
			r, err = encode(m)
		}
		if err == nil {
			err = b.pub.send(ctx, lanePlace{to.info.name, partitionOf(m, to.info.numbers)}, r, func(p broker.Position, err error) {
				done(i, p, wrapPublish(m, err))
			})
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

// target is where the messages of a topic go.
type target struct {
	info topicInfo
	err  error
}

// target looks a topic up, waiting a lost connection out until ctx ends.
func (b *Broker) target(ctx context.Context, topic string) target {
	if err := checkName("topic", topic); err != nil {
		return target{err: err}
	}
	for wait := retryPause; ; wait = min(2*wait, retryPauseMax) {
		if b.isClosed() {
			return target{err: broker.ErrClosed}
		}
		info, err := b.topics.get(ctx, b.names.topic(topic))
		if err == nil || errors.Is(err, broker.ErrNoTopic) || !passing(err) || !pause(ctx, wait) {
			return target{info, err}
		}
		if stale(err) {
			b.renew()
		}
	}
}
