package watermill

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/twostep-mq/twostep/broker"
)

const (
	// laneRoom bounds the messages of one topic that wait for the pub/sub.
	laneRoom = 4096
	// publishMost go into one call of the pub/sub's Publish.
	publishMost = 100
	// singlyFor is how long the messages of a call that failed are tried one by one, to find those that are refused from those that a
	// pub/sub which works would take.
	singlyFor = time.Second
)

// lanes publish the messages of each topic in order, one call at a time, in the background: a pub/sub's Publish waits for its broker, and
// a relay that waited with it would lose its lease.
type lanes struct {
	pub     message.Publisher
	mu      *sync.Mutex
	by      map[string]*lane
	running *sync.WaitGroup
}

type lane struct {
	queue []parcel
	// room has a token for each message in the queue.
	room chan struct{}
}

type parcel struct {
	w    *message.Message
	done func(error)
}

func newLanes(pub message.Publisher) lanes {
	return lanes{pub: pub, mu: new(sync.Mutex), by: map[string]*lane{}, running: new(sync.WaitGroup)}
}

func (l lanes) of(name string) *lane {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.by[name] == nil {
		l.by[name] = &lane{room: make(chan struct{}, laneRoom)}
	}
	return l.by[name]
}

// put queues a message; it waits while there is no room.
func (l lanes) put(ctx context.Context, name string, p parcel) error {
	to := l.of(name)
	select {
	case to.room <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	to.queue = append(to.queue, p)
	if len(to.queue) == 1 {
		l.running.Go(func() { l.drain(name, to) })
	}
	return nil
}

// drain publishes until the queue is empty. What is being published stays at its head, so that there is one drain a lane.
func (l lanes) drain(name string, of *lane) {
	for {
		l.mu.Lock()
		batch := of.queue[:min(len(of.queue), publishMost)]
		l.mu.Unlock()
		if len(batch) == 0 {
			return
		}
		l.publish(name, batch)
		l.mu.Lock()
		of.queue = of.queue[len(batch):]
		left := len(of.queue)
		if left == 0 {
			of.queue = nil
		}
		l.mu.Unlock()
		for range batch {
			<-of.room
		}
		if left == 0 {
			return
		}
	}
}

func (l lanes) publish(name string, batch []parcel) {
	ws := make([]*message.Message, len(batch))
	for i, p := range batch {
		ws[i] = p.w
	}
	err := l.pub.Publish(name, ws...)
	if err == nil || len(batch) == 1 {
		for _, p := range batch {
			p.done(err)
		}
		return
	}
	// Some may have been taken; they then lie there twice, which the barrier absorbs.
	began := time.Now()
	for _, p := range batch {
		if time.Since(began) < singlyFor {
			err = l.pub.Publish(name, p.w.CopyWithContext())
		} else if err == nil {
			err = context.DeadlineExceeded
		}
		p.done(err)
	}
}

// wait waits until everything that was put is published, or ctx ends.
func (l lanes) wait(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		l.running.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Publish hands messages to the pub/sub's publisher. done gets the time as the position.
func (b *Broker) Publish(ctx context.Context, ms []*broker.Message, done func(i int, p broker.Position, err error)) {
	for i, m := range ms {
		name, err := b.topicName(m.Topic)
		var w *message.Message
		if err == nil {
			w, err = b.wrapped(ctx, m)
		}
		if err == nil {
			err = b.lanes.put(ctx, name, parcel{w, func(err error) {
				if err != nil {
					done(i, broker.Position{}, fmt.Errorf("adapters/watermill: publish to topic %s: %w", m.Topic, err))
					return
				}
				done(i, positionAt(time.Now()), nil)
			}})
		}
		if err != nil {
			done(i, broker.Position{}, fmt.Errorf("adapters/watermill: publish to topic %s: %w", m.Topic, err))
		}
	}
}

func (b *Broker) wrapped(ctx context.Context, m *broker.Message) (*message.Message, error) {
	if b.life.ctx.Err() != nil {
		return nil, broker.ErrClosed
	}
	for name := range m.Headers {
		if name == "" || isReservedHeader(name) {
			return nil, fmt.Errorf("%w: header name %q: ce-, twostep- and content-type are taken", broker.ErrInvalid, name)
		}
	}
	w := wrap(m)
	w.SetContext(ctx)
	if n := size(w); b.cfg.MaxBytes > 0 && n > b.cfg.MaxBytes {
		return nil, fmt.Errorf("%w: %d bytes, the limit is %d (BrokerConfig.MaxBytes)", broker.ErrTooLarge, n, b.cfg.MaxBytes)
	}
	return w, nil
}

// isReservedHeader allows, other than isReserved, what this package's own publishers add.
func isReservedHeader(name string) bool {
	return isReserved(name) && (len(name) < len(ownPrefix) || name[:len(ownPrefix)] != ownPrefix)
}

// Send puts messages into an inbox, one after the other. It never says that the inbox is full; see ResendBackoff.
func (b *Broker) Send(ctx context.Context, inbox string, ms []*broker.Message) (n int, err error) {
	name, err := b.inboxName(inbox)
	if err != nil {
		return 0, err
	}
	ws := make([]*message.Message, 0, len(ms))
	for _, m := range ms {
		w, failed := b.wrapped(ctx, m)
		if failed != nil {
			err = failed
			break
		}
		ws = append(ws, w)
	}
	n = len(ws)
	if _, made := b.inboxes.Load(inbox); n > 0 && !made {
		// A pub/sub whose queues do not exist before somebody reads them would lose what is sent now.
		if err := b.EnsureInbox(ctx, inbox); err != nil {
			return 0, err
		}
	}
	if n > 0 {
		if failed := b.publish(ctx, name, ws); failed != nil {
			n, err = 0, failed // how far it came Watermill does not say
		}
	}
	if err != nil {
		return n, fmt.Errorf("adapters/watermill: send to inbox %s: %w", inbox, err)
	}
	return n, nil
}

// publish waits for the pub/sub no longer than ctx, which its publisher may not heed.
func (b *Broker) publish(ctx context.Context, name string, ws []*message.Message) error {
	done := make(chan error, 1)
	go func() { done <- b.pub.Publish(name, ws...) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
