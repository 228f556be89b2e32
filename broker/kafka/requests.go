package kafka

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twostep-mq/twostep/broker"
)

// answerers is how many requests under one name a process works on at a time.
const answerers = 16

// asked is a request of this process.
type asked struct {
	claimed chan struct{}
	answer  chan []byte
}

// seen is a request that this process would answer.
type seen struct {
	by   *answerer
	body []byte
	at   time.Time
}

type answerer struct {
	name string
	fn   func(ctx context.Context, body []byte) []byte
	room chan struct{}
	work sync.WaitGroup // claims and calls under way
}

// Request asks whoever answers under name. Without a deadline it waits 5 s; that nobody is there it knows after 1 s.
func (b *Broker) Request(ctx context.Context, name string, body []byte) ([]byte, error) {
	if err := checkName("request", name); err != nil {
		return nil, err
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, requestWait)
		defer cancel()
	}
	answer, err := b.calls.request(ctx, name, body)
	if err == nil || errors.Is(err, broker.ErrClosed) || errors.Is(err, broker.ErrNoAnswer) {
		return answer, err
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = errors.Join(broker.ErrNoAnswer, err)
	}
	return nil, fmt.Errorf("broker/kafka: request to %q: %w", name, err)
}

func (c *calls) request(ctx context.Context, name string, body []byte) ([]byte, error) {
	c.begin(ctx)
	var random [16]byte
	_, _ = rand.Read(random[:]) // never fails
	id := hex.EncodeToString(random[:])
	a := &asked{claimed: make(chan struct{}), answer: make(chan []byte, 1)}
	c.mu.Lock()
	c.asked[id] = a
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.asked, id)
	}()
	if err := c.post(ctx, callRecord(callRequest, name, id, "", body)); err != nil {
		return nil, err
	}
	timer := time.NewTimer(claimWait)
	defer timer.Stop()
	var nobody error
	select {
	case <-a.claimed:
	case <-timer.C:
		nobody = fmt.Errorf("broker/kafka: request to %q: %w", name, broker.ErrNoAnswer)
	case <-ctx.Done():
		nobody = fmt.Errorf("broker/kafka: request to %q: %w: %w", name, broker.ErrNoAnswer, ctx.Err())
	case <-c.b.life.Done():
		return nil, broker.ErrClosed
	}
	if nobody != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), claimWait)
		defer cancel()
		if err := c.post(ctx, callRecord(callWithdraw, name, id, "", nil)); err != nil {
			c.b.log.Debug("request not withdrawn", "name", name, "error", err)
		}
		return nil, nobody
	}
	select {
	case answer := <-a.answer:
		return answer, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("broker/kafka: request to %q: %w: %w", name, broker.ErrNoAnswer, ctx.Err())
	case <-c.b.life.Done():
		return nil, broker.ErrClosed
	}
}

// Answer answers requests under name until stop is called, a few at a time. stop lets what was claimed be answered for a moment,
// then ends fn's context and waits for the calls that run.
func (b *Broker) Answer(ctx context.Context, name string, fn func(ctx context.Context, body []byte) []byte) (stop func(), err error) {
	if err := checkName("request", name); err != nil {
		return nil, err
	}
	c := b.calls
	working, cancel := context.WithCancel(context.WithoutCancel(ctx))
	a := &answerer{name: name, room: make(chan struct{}, answerers)}
	a.fn = func(_ context.Context, body []byte) []byte { return fn(working, body) }
	c.mu.Lock()
	c.answerers[name] = append(c.answerers[name], a)
	c.mu.Unlock()
	c.begin(ctx)
	return sync.OnceFunc(func() {
		c.mu.Lock()
		c.answerers[name] = slices.DeleteFunc(c.answerers[name], func(other *answerer) bool { return other == a })
		c.mu.Unlock()
		defer cancel()
		done := make(chan struct{})
		go func() { a.work.Wait(); close(done) }()
		timer := time.NewTimer(farewellWait)
		defer timer.Stop()
		select {
		case <-done:
			return
		case <-timer.C:
		case <-b.life.Done():
		}
		cancel()
		c.drop(func(s *seen) bool { return s.by == a })
		<-done
	}), nil
}

// drop forgets claims that were never read of.
func (c *calls) drop(which func(*seen) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, s := range c.seen {
		if which(s) {
			delete(c.seen, id)
			s.by.work.Done()
		}
	}
}

// requested claims a request that somebody here answers.
func (c *calls) requested(name, id string, body []byte) {
	old := time.Now().Add(-forgetAfter)
	c.drop(func(s *seen) bool { return s.at.Before(old) })
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.answerers[name]
	if len(all) == 0 || c.seen[id] != nil {
		return
	}
	by := all[len(c.seen)%len(all)]
	by.work.Add(1)
	c.seen[id] = &seen{by: by, body: body, at: time.Now()}
	go func() {
		if err := c.post(c.b.life, callRecord(callClaim, name, id, c.self, nil)); err != nil {
			c.b.log.Debug("request not claimed", "name", name, "error", err)
		}
	}()
}

// claimed settles who answers: the first claim in the topic. mine: it is this process's.
func (c *calls) claimed(id string, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.asked[id]; a != nil {
		select {
		case <-a.claimed:
		default:
			close(a.claimed)
		}
	}
	s := c.seen[id]
	if s == nil {
		return
	}
	delete(c.seen, id)
	if !mine {
		s.by.work.Done()
		return
	}
	go c.answer(id, s)
}

// withdrawn: a claim that comes later is void.
func (c *calls) withdrawn(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.seen[id]; s != nil {
		delete(c.seen, id)
		s.by.work.Done()
	}
}

func (c *calls) answer(id string, s *seen) {
	defer s.by.work.Done()
	select {
	case s.by.room <- struct{}{}:
	case <-c.b.life.Done():
		return
	}
	defer func() { <-s.by.room }()
	answer := s.by.fn(c.b.life, s.body)
	if err := c.post(c.b.life, callRecord(callAnswer, s.by.name, id, c.self, answer)); err != nil {
		c.b.log.Warn("answer not sent", "request", s.by.name, "error", err)
	}
}

func (c *calls) answered(id string, body []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.asked[id]; a != nil {
		select {
		case a.answer <- body:
		default: // answered twice
		}
	}
}
