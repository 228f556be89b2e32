package kafka

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twostep-mq/twostep/broker"
)

// bellEvery is the least time between two records of one bell: what is rung meanwhile rings once, at its end.
const bellEvery = 50 * time.Millisecond

// bell is being rung, and again if it was rung since.
type bell struct{ again bool }

type listener struct {
	rings chan struct{}
	stop  chan struct{}

	mu      sync.Mutex
	stopped bool
}

// run calls fn until stop is called or life, the Broker's, ends.
func (l *listener) run(life context.Context, fn func()) {
	for {
		select {
		case <-l.rings:
		case <-l.stop:
			return
		case <-life.Done():
			return
		}
		l.mu.Lock()
		stopped := l.stopped
		l.mu.Unlock()
		if stopped {
			return
		}
		fn()
	}
}

// Ring tells everyone who listens under name. It does not wait for the broker.
func (b *Broker) Ring(_ context.Context, name string) error {
	if err := checkName("bell", name); err != nil {
		return err
	}
	if b.isClosed() {
		return fmt.Errorf("broker/kafka: ring %q: %w", name, broker.ErrClosed)
	}
	c := b.calls
	c.mu.Lock()
	defer c.mu.Unlock()
	if rung := c.bells[name]; rung != nil {
		rung.again = true
		return nil
	}
	c.bells[name] = &bell{}
	go c.ring(name)
	return nil
}

// ring writes the bell's records until it is not rung any more.
func (c *calls) ring(name string) {
	for {
		began := time.Now()
		if err := c.post(c.b.life, callRecord(callBell, name, "", "", nil)); err != nil {
			c.b.log.Debug("bell not rung", "name", name, "error", err)
		}
		pause(c.b.life, bellEvery-time.Since(began))
		c.mu.Lock()
		again := c.bells[name].again && c.b.life.Err() == nil
		c.bells[name].again = false
		if !again {
			delete(c.bells, name)
		}
		c.mu.Unlock()
		if !again {
			return
		}
	}
}

// Listen calls fn for each ring until stop is called; what is rung during a call rings once more after it. No call begins after stop has
// returned.
func (b *Broker) Listen(ctx context.Context, name string, fn func()) (stop func(), err error) {
	if err := checkName("bell", name); err != nil {
		return nil, err
	}
	c := b.calls
	l := &listener{rings: make(chan struct{}, 1), stop: make(chan struct{})}
	c.mu.Lock()
	c.listeners[name] = append(c.listeners[name], l)
	c.mu.Unlock()
	go l.run(b.life, fn)
	c.begin(ctx)
	return sync.OnceFunc(func() {
		c.mu.Lock()
		c.listeners[name] = slices.DeleteFunc(c.listeners[name], func(other *listener) bool { return other == l })
		c.mu.Unlock()
		l.mu.Lock()
		defer l.mu.Unlock()
		l.stopped = true
		close(l.stop)
	}), nil
}

func (c *calls) rung(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.listeners[name] {
		ring(l.rings)
	}
}
