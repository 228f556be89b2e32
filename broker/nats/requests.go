package nats

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/twostep-mq/twostep/broker"
)

const (
	// requestWait bounds a request whose context has no deadline.
	requestWait = 5 * time.Second
	// answerers is how many requests under one name a process works on at a time.
	answerers = 16
	// answerQueue is the queue group of those who answer one name.
	answerQueue = "answer"
)

// Request asks whoever answers under name. Without a deadline it waits 5 s.
func (b *Broker) Request(ctx context.Context, name string, body []byte) ([]byte, error) {
	if err := checkName("request", name); err != nil {
		return nil, err
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, requestWait)
		defer cancel()
	}
	m, err := b.nc.RequestWithContext(ctx, b.names.requestSubject(name), body)
	switch {
	case err == nil:
		return m.Data, nil
	case errors.Is(err, nats.ErrNoResponders):
		return nil, fmt.Errorf("broker/nats: request to %q: %w", name, broker.ErrNoAnswer)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return nil, fmt.Errorf("broker/nats: request to %q: %w: %w", name, broker.ErrNoAnswer, err)
	}
	return nil, fmt.Errorf("broker/nats: request to %q: %w", name, connError(err))
}

// Answer answers requests under name until stop is called, a few at a time. stop lets what has arrived be answered for a
// moment, then ends fn's context and waits for the calls that run.
func (b *Broker) Answer(ctx context.Context, name string, fn func(ctx context.Context, body []byte) []byte) (stop func(), err error) {
	if err := checkName("request", name); err != nil {
		return nil, err
	}
	actx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var (
		mu      sync.Mutex
		stopped bool
		wg      sync.WaitGroup
	)
	room := make(chan struct{}, answerers)
	sub, err := b.nc.QueueSubscribe(b.names.requestSubject(name), answerQueue, func(m *nats.Msg) {
		select {
		case room <- struct{}{}:
		case <-actx.Done():
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if stopped {
			return
		}
		wg.Go(func() {
			defer func() { <-room }()
			if err := m.Respond(fn(actx, m.Data)); err != nil {
				b.log.Warn("answer not sent", "request", name, "error", err)
			}
		})
	})
	if err != nil {
		cancel()
		return nil, fmt.Errorf("broker/nats: answer %q: %w", name, connError(err))
	}
	ended := make(chan struct{})
	sub.SetClosedHandler(func(string) { close(ended) })
	b.announce(ctx)
	return sync.OnceFunc(func() {
		b.drain(sub, ended)
		cancel()
		mu.Lock()
		stopped = true
		mu.Unlock()
		wg.Wait()
	}), nil
}

// Ring tells everyone who listens under name.
func (b *Broker) Ring(_ context.Context, name string) error {
	if err := checkName("bell", name); err != nil {
		return err
	}
	if err := b.nc.Publish(b.names.bellSubject(name), nil); err != nil {
		return fmt.Errorf("broker/nats: ring %q: %w", name, connError(err))
	}
	return nil
}

// Listen calls fn for each ring until stop is called; rings during a call wait. No call begins after stop has returned.
func (b *Broker) Listen(ctx context.Context, name string, fn func()) (stop func(), err error) {
	if err := checkName("bell", name); err != nil {
		return nil, err
	}
	var stopped atomic.Bool
	sub, err := b.nc.Subscribe(b.names.bellSubject(name), func(*nats.Msg) {
		if !stopped.Load() {
			fn()
		}
	})
	if err != nil {
		return nil, fmt.Errorf("broker/nats: listen to %q: %w", name, connError(err))
	}
	b.announce(ctx)
	return sync.OnceFunc(func() {
		stopped.Store(true)
		unsubscribe(sub)
	}), nil
}

// announce waits until the server knows of the subscriptions made so far. Without a connection there is nothing to wait for:
// they are made again with the next one.
func (b *Broker) announce(ctx context.Context) {
	if !b.nc.IsConnected() {
		return
	}
	if err := b.apiOnce(ctx, b.nc.FlushWithContext); err != nil {
		b.log.Debug("subscription not confirmed", "error", err)
	}
}

// drain has the server send nothing more to sub, and waits until what has arrived is worked on.
func (b *Broker) drain(sub *nats.Subscription, ended <-chan struct{}) {
	if !b.nc.IsConnected() || sub.Drain() != nil {
		unsubscribe(sub)
		return
	}
	b.announce(context.Background())
	timer := time.NewTimer(farewellWait)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
		b.log.Debug("requests were left unanswered", "subject", sub.Subject)
	}
}

// unsubscribe fails on a closed connection only, and then the subscription is gone, too.
func unsubscribe(sub *nats.Subscription) { _ = sub.Unsubscribe() }
