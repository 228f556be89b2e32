package watermill

import (
	"context"
	"fmt"
	"sync"

	"github.com/twostep-mq/twostep/broker"
)

// switchboard connects those who ask and ring with those who answer and listen on the same Broker: what Watermill has for it, queues, would
// keep requests until long after anybody waits for an answer.
type switchboard struct {
	mu        sync.Mutex
	next      int
	answers   map[string]map[int]func(context.Context, []byte) []byte
	listeners map[string]map[int]func()
}

func newSwitchboard() *switchboard {
	return &switchboard{answers: map[string]map[int]func(context.Context, []byte) []byte{}, listeners: map[string]map[int]func(){}}
}

func plug[F any](s *switchboard, to map[string]map[int]F, name string, fn F) (stop func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	id := s.next
	if to[name] == nil {
		to[name] = map[int]F{}
	}
	to[name][id] = fn
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(to[name], id)
	}
}

// Request asks who answers on this Broker; nobody else can be reached.
func (b *Broker) Request(ctx context.Context, name string, body []byte) ([]byte, error) {
	b.local.mu.Lock()
	var fn func(context.Context, []byte) []byte
	for _, fn = range b.local.answers[name] {
		break
	}
	b.local.mu.Unlock()
	switch {
	case b.life.ctx.Err() != nil:
		return nil, broker.ErrClosed
	case fn == nil:
		return nil, fmt.Errorf("adapters/watermill: request to %q: %w in this process, and over Watermill no other is asked", name, broker.ErrNoAnswer)
	}
	answered := make(chan []byte, 1)
	go func() { answered <- fn(ctx, body) }()
	select {
	case answer := <-answered:
		return answer, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("adapters/watermill: request to %q: %w: %w", name, broker.ErrNoAnswer, ctx.Err())
	}
}

// Answer answers requests made on this Broker.
func (b *Broker) Answer(_ context.Context, name string, fn func(ctx context.Context, body []byte) []byte) (stop func(), err error) {
	return plug(b.local, b.local.answers, name, fn), nil
}

// Ring tells who listens on this Broker. Relays in other processes find new rows when they next look (1 s).
func (b *Broker) Ring(_ context.Context, name string) error {
	if b.life.ctx.Err() != nil {
		return broker.ErrClosed
	}
	b.local.mu.Lock()
	calls := make([]func(), 0, len(b.local.listeners[name]))
	for _, fn := range b.local.listeners[name] {
		calls = append(calls, fn)
	}
	b.local.mu.Unlock()
	for _, fn := range calls {
		fn()
	}
	return nil
}

// Listen listens to rings on this Broker.
func (b *Broker) Listen(_ context.Context, name string, fn func()) (stop func(), err error) {
	return plug(b.local, b.local.listeners, name, fn), nil
}
