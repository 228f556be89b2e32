package memory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/twostep-mq/twostep/broker"
)

// Conn is one process's connection. It is a broker.Broker whose Publish, Consume and WatchState move only when the test moves
// them: with the Server's Publishing, and with Deliver and Announce here. A simulation without goroutines uses Pull and Watch
// in place of Consume and WatchState.
type Conn struct {
	server *Server
	name   string
	down   bool
	gone   bool
	// mu guards the two lists, which blocked calls are in.
	mu        sync.Mutex
	consumers []*consumer
	watchers  []*watch
}

var _ broker.Broker = (*Conn)(nil)

// Connect makes a connection; name is for errors alone.
func (s *Server) Connect(name string) *Conn { return &Conn{server: s, name: name} }

// SetDown cuts the connection, or mends it. What was on its way in may still arrive.
func (c *Conn) SetDown(down bool) { c.down = down }

// Down reports whether the connection is cut.
func (c *Conn) Down() bool { return c.down }

// Kill ends the connection as the death of its process does: no answer arrives any more, and what the process had is handed
// out again. What it had published is still under way, unless the test loses it.
func (c *Conn) Kill() {
	c.gone = true
	c.server.Expire(c)
}

func (c *Conn) check(ctx context.Context) error {
	switch {
	case c.gone:
		return broker.ErrClosed
	case ctx.Err() != nil:
		return ctx.Err()
	case c.down:
		return fmt.Errorf("%s: %w", c.name, ErrConnection)
	}
	return nil
}

// EnsureTopic implements broker.Topics.
func (c *Conn) EnsureTopic(ctx context.Context, t broker.TopicSpec) error {
	if err := c.check(ctx); err != nil {
		return err
	}
	c.server.ensureTopic(t)
	return nil
}

// DeleteTopic implements broker.Topics.
func (c *Conn) DeleteTopic(ctx context.Context, topic string) error {
	if err := c.check(ctx); err != nil {
		return err
	}
	delete(c.server.topics, topic)
	return nil
}

// EnsureSubscription implements broker.Topics.
func (c *Conn) EnsureSubscription(ctx context.Context, s broker.SubscriptionSpec) error {
	if err := c.check(ctx); err != nil {
		return err
	}
	t := c.server.topics[s.Topic]
	if t == nil {
		return broker.ErrNoTopic
	}
	t.ensureReader(s)
	return nil
}

// DeleteSubscription implements broker.Topics.
func (c *Conn) DeleteSubscription(ctx context.Context, topic, uid string) error {
	if err := c.check(ctx); err != nil {
		return err
	}
	if t := c.server.topics[topic]; t != nil {
		delete(t.readers, uid)
	}
	return nil
}

// EnsureInbox implements broker.Topics.
func (c *Conn) EnsureInbox(ctx context.Context, inbox string) error {
	if err := c.check(ctx); err != nil {
		return err
	}
	c.server.ensureInbox(inbox)
	return nil
}

// DeleteInbox implements broker.Topics.
func (c *Conn) DeleteInbox(ctx context.Context, inbox string) error {
	if err := c.check(ctx); err != nil {
		return err
	}
	delete(c.server.inboxes, inbox)
	return nil
}

// Positions implements broker.Topics.
func (c *Conn) Positions(ctx context.Context, topic string, uids []string) (broker.Positions, error) {
	if err := c.check(ctx); err != nil {
		return broker.Positions{}, err
	}
	t := c.server.topics[topic]
	if t == nil {
		return broker.Positions{}, broker.ErrNoTopic
	}
	return t.positions(uids), nil
}

// Publish implements broker.Messages; see Server.Publishing. Without a connection the caller is told so at once.
func (c *Conn) Publish(ctx context.Context, ms []*broker.Message, done func(i int, p broker.Position, err error)) {
	err := c.check(ctx)
	for i, m := range ms {
		if err != nil {
			if !c.gone {
				done(i, broker.Position{}, err)
			}
			continue
		}
		copied := *m
		c.server.publishing = append(c.server.publishing, &Publishing{
			Message: &copied, server: c.server, conn: c, answer: func(p broker.Position, err error) { done(i, p, err) },
		})
	}
}

// Send implements broker.Messages.
func (c *Conn) Send(ctx context.Context, inbox string, ms []*broker.Message) (int, error) {
	if err := c.check(ctx); err != nil {
		return 0, err
	}
	return c.server.send(inbox, ms)
}

type consumer struct {
	src    broker.Source
	handle func(context.Context, []broker.Delivery) error
	ctx    context.Context
}

// Consume implements broker.Messages; the handler is called by Deliver.
func (c *Conn) Consume(ctx context.Context, src broker.Source, handle func(context.Context, []broker.Delivery) error) error {
	if err := c.check(ctx); err != nil && !errors.Is(err, ErrConnection) {
		return err
	}
	k := &consumer{src: src, handle: handle, ctx: ctx}
	c.mu.Lock()
	c.consumers = append(c.consumers, k)
	c.mu.Unlock()
	<-ctx.Done()
	c.mu.Lock()
	c.consumers = slices.DeleteFunc(c.consumers, func(o *consumer) bool { return o == k })
	c.mu.Unlock()
	return nil
}

// Deliver hands each consumer of the connection one batch, in the caller's goroutine, and tells how many got one.
func (c *Conn) Deliver() (n int) {
	c.mu.Lock()
	consumers := slices.Clone(c.consumers)
	c.mu.Unlock()
	for _, k := range consumers {
		b := c.Pull(k.src, 0)
		if b == nil {
			continue
		}
		n++
		if k.handle(k.ctx, b.Deliveries) != nil {
			b.Expire()
			continue
		}
		b.Settle()
	}
	return n
}

// PutState implements broker.State.
func (c *Conn) PutState(ctx context.Context, key string, value []byte) error {
	if err := c.check(ctx); err != nil {
		return err
	}
	c.server.state.put(key, append([]byte{}, value...))
	return nil
}

// DeleteState implements broker.State.
func (c *Conn) DeleteState(ctx context.Context, key string) error {
	if err := c.check(ctx); err != nil {
		return err
	}
	c.server.state.put(key, nil)
	return nil
}

type watch struct {
	*Watcher
	fn  func(broker.StateEvent) error
	end chan error
}

// WatchState implements broker.State; fn is called by Announce.
func (c *Conn) WatchState(ctx context.Context, prefix string, fn func(broker.StateEvent) error) error {
	w := &watch{Watcher: c.Watch(prefix), fn: fn, end: make(chan error, 1)}
	c.mu.Lock()
	c.watchers = append(c.watchers, w)
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.watchers = slices.DeleteFunc(c.watchers, func(o *watch) bool { return o == w })
	}()
	select {
	case <-ctx.Done():
		return nil
	case err := <-w.end:
		return err
	}
}

// Announce gives every watch of the connection all events there are, in the caller's goroutine.
func (c *Conn) Announce() {
	c.mu.Lock()
	watchers := slices.Clone(c.watchers)
	c.mu.Unlock()
	for _, w := range watchers {
		for ev, ok := w.Next(); ok; ev, ok = w.Next() {
			if err := w.fn(ev); err != nil {
				w.end <- err
				break
			}
		}
	}
}

type answerer struct {
	conn *Conn
	fn   func(ctx context.Context, body []byte) []byte
}

type listener struct {
	conn *Conn
	fn   func()
}

// Request implements broker.Requests: the first who answers does so at once.
func (c *Conn) Request(ctx context.Context, name string, body []byte) ([]byte, error) {
	if err := c.check(ctx); err != nil {
		return nil, err
	}
	for _, a := range c.server.answers[name] {
		if !a.conn.gone && !a.conn.down {
			return a.fn(ctx, body), nil
		}
	}
	return nil, broker.ErrNoAnswer
}

// Answer implements broker.Requests.
func (c *Conn) Answer(ctx context.Context, name string, fn func(ctx context.Context, body []byte) []byte) (stop func(), err error) {
	if err := c.check(ctx); err != nil {
		return nil, err
	}
	a := &answerer{conn: c, fn: fn}
	c.server.answers[name] = append(c.server.answers[name], a)
	return func() {
		c.server.answers[name] = slices.DeleteFunc(c.server.answers[name], func(o *answerer) bool { return o == a })
	}, nil
}

// Ring implements broker.Requests: everyone who listens hears it at once.
func (c *Conn) Ring(ctx context.Context, name string) error {
	if err := c.check(ctx); err != nil {
		return err
	}
	for _, l := range slices.Clone(c.server.listeners[name]) {
		if !l.conn.gone && !l.conn.down {
			l.fn()
		}
	}
	return nil
}

// Listen implements broker.Requests.
func (c *Conn) Listen(ctx context.Context, name string, fn func()) (stop func(), err error) {
	if err := c.check(ctx); err != nil {
		return nil, err
	}
	l := &listener{conn: c, fn: fn}
	c.server.listeners[name] = append(c.server.listeners[name], l)
	return func() {
		c.server.listeners[name] = slices.DeleteFunc(c.server.listeners[name], func(o *listener) bool { return o == l })
	}, nil
}

// Close implements broker.Broker.
func (c *Conn) Close(context.Context) error {
	c.gone = true
	c.server.Expire(c)
	return nil
}
