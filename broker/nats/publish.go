package nats

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/twostep-mq/twostep/broker"
)

// Publish sends messages to their topics, in order and without waiting for each other's acknowledgement. While the
// connection is lost it waits for up to Config.AckTimeout before it gives up on the messages. done may be called before
// Publish returns, also by this goroutine, and must not block.
func (b *Broker) Publish(ctx context.Context, ms []*broker.Message, done func(i int, p broker.Position, err error)) {
	env := newEnvelope()
	var msg nats.Msg // nats.go copies it into its buffer
	wait := b.cfg.AckTimeout
	for i, m := range ms {
		at, err := b.ready(ctx, m.Topic, wait)
		if errors.Is(err, errNotConnected) {
			wait = 0 // the others have waited with this one
		}
		if err == nil {
			msg.Header, err = env.encode(m)
		}
		if err == nil {
			msg.Subject, msg.Data = b.names.topicSubject(m.Topic), m.Payload
			topic := m.Topic
			err = b.pub.send(ctx, &msg, func(offset uint64, err error) {
				if err != nil {
					if errors.Is(err, broker.ErrNoTopic) {
						b.ids.forget(topic)
					}
					done(i, broker.Position{}, err)
					return
				}
				b.ids.acknowledged(topic, at, offset)
				done(i, broker.Position{Stream: at, Offset: offset}, nil)
			})
		}
		if err != nil {
			done(i, broker.Position{}, fmt.Errorf("broker/nats: publish to topic %q: %w", m.Topic, err))
		}
	}
}

// ready waits for the connection and returns the incarnation of the topic's stream.
func (b *Broker) ready(ctx context.Context, topic string, wait time.Duration) (stream string, err error) {
	if b.isClosed() {
		return "", broker.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if err := b.waitConnected(ctx, wait); err != nil {
		return "", err
	}
	return b.incarnation(ctx, topic)
}

// Send puts messages into an inbox and waits for the acknowledgements. If one in the middle is refused, later ones may be
// stored all the same: n counts those before the first refusal, and the caller sends the rest again.
func (b *Broker) Send(ctx context.Context, inbox string, ms []*broker.Message) (int, error) {
	if err := checkName("inbox", inbox); err != nil {
		return 0, err
	}
	n, err := b.sendAll(ctx, inbox, ms)
	if errors.Is(err, broker.ErrNoTopic) {
		// Nothing listens on the subject: the stream of inboxes was never made, or is gone.
		if _, err := b.ensureInboxStream(ctx, inbox); err != nil {
			return n, err
		}
		var more int
		more, err = b.sendAll(ctx, inbox, ms[n:])
		n += more
		if errors.Is(err, broker.ErrNoTopic) {
			err = broker.ErrNoInbox
		}
		if err == nil {
			return n, nil
		}
	}
	if err != nil {
		return n, fmt.Errorf("broker/nats: send to inbox %q: %w", inbox, err)
	}
	return n, nil
}

// sendAll sends once. It waits for all answers even if ctx ends, for the publisher bounds the wait.
func (b *Broker) sendAll(ctx context.Context, inbox string, ms []*broker.Message) (int, error) {
	if b.isClosed() {
		return 0, broker.ErrClosed
	}
	if err := b.waitConnected(ctx, b.cfg.AckTimeout); err != nil {
		return 0, err
	}
	var (
		wg  sync.WaitGroup
		env = newEnvelope()
		msg = nats.Msg{Subject: b.names.inbox(inbox).subject}
		out = make([]error, len(ms))
	)
	for i, m := range ms {
		msg.Data = m.Payload
		if msg.Header, out[i] = env.encode(m); out[i] != nil {
			break
		}
		wg.Add(1)
		err := b.pub.send(ctx, &msg, func(_ uint64, err error) {
			out[i] = err
			wg.Done()
		})
		if err != nil {
			out[i] = err
			wg.Done()
			break
		}
	}
	wg.Wait()
	for i, err := range out {
		if err != nil {
			return i, err
		}
	}
	return len(ms), nil
}
