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

const (
	// lookupWait bounds what one Publish waits for the stream of a topic that it does not know; lookups do so at most.
	lookupWait = time.Second
	lookups    = 2
	// silentPause is how long Publish does not ask again about a topic whose stream did not answer, as one without a leader: the other
	// topics would wait for it each time.
	silentPause = 10 * time.Second
)

// errSilent: the stream of the topic, or of others before it, did not answer a moment ago.
var errSilent = errors.New("broker/nats: streams do not answer")

// Publish sends messages to their topics, in order and without waiting for each other's acknowledgement. While the
// connection is lost it waits for up to Config.AckTimeout before it gives up on the messages. done may be called before
// Publish returns, also by this goroutine, and must not block.
func (b *Broker) Publish(ctx context.Context, ms []*broker.Message, done func(i int, p broker.Position, err error)) {
	env := newEnvelope()
	var msg nats.Msg // nats.go copies it into its buffer
	streams := lookup{b: b, wait: b.cfg.AckTimeout}
	for i, m := range ms {
		at, err := streams.of(ctx, m.Topic)
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

// lookup tells the incarnations of the streams of one Publish. What one message has waited for in vain, the others do not wait for
// again.
type lookup struct {
	b      *Broker
	wait   time.Duration // for the connection
	failed map[string]error
	silent int // topics that did not answer
}

func (l *lookup) of(ctx context.Context, topic string) (stream string, err error) {
	if err := l.failed[topic]; err != nil {
		return "", err
	}
	if l.b.isClosed() {
		return "", broker.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if err := l.b.waitConnected(ctx, l.wait); err != nil {
		l.wait = 0
		return "", err
	}
	if stream, known := l.b.ids.of(topic); known {
		return stream, nil
	}
	stream, err = l.ask(ctx, topic)
	if err != nil {
		if l.failed == nil {
			l.failed = map[string]error{}
		}
		l.failed[topic] = err
	}
	return stream, err
}

func (l *lookup) ask(ctx context.Context, topic string) (string, error) {
	if l.silent >= lookups || l.b.ids.silent(topic) {
		return "", errSilent
	}
	asking, cancel := context.WithTimeout(ctx, lookupWait)
	defer cancel()
	stream, err := l.b.incarnation(asking, topic)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		l.b.ids.unanswered(topic)
		l.silent++
	}
	return stream, err
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
