package kafka

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"

	"github.com/twostep-mq/twostep/broker"
)

// Kafka has no requests and no bells. Here they are records of one short-lived topic, which every process reads that asks, answers
// or listens. Its order decides: whoever's claim of a request comes first in it answers, unless the request was withdrawn before.

// Headers of the records.
const (
	headerCall = "twostep-call"
	headerName = "twostep-name"
	headerCID  = "twostep-id"
	headerBy   = "twostep-by"
)

// What a record is.
const (
	callBell     = "bell"
	callRequest  = "request"
	callClaim    = "claim"
	callWithdraw = "withdraw"
	callAnswer   = "answer"
)

const (
	// requestWait bounds a request whose context has no deadline, claimWait how long somebody may take to claim it.
	requestWait = 5 * time.Second
	claimWait   = time.Second
	// callsKept is how long records are kept, in milliseconds.
	callsKept = "600000"
	// forgetAfter is when a request that nobody settled is forgotten.
	forgetAfter = time.Minute
)

// calls is this process's part in requests and bells.
type calls struct {
	b    *Broker
	self string // names this process in claims

	start sync.Once
	ready chan struct{} // closed when the reading has begun
	ended chan struct{} // closed when it has ended

	mu        sync.Mutex
	started   bool
	answerers map[string][]*answerer
	listeners map[string][]*listener
	bells     map[string]*bell
	// asked are this process's own requests, seen those of others that it has claimed and nobody's claim has been read of yet.
	asked map[string]*asked
	seen  map[string]*seen
}

func newCalls(b *Broker) *calls {
	var self [8]byte
	_, _ = rand.Read(self[:]) // never fails
	return &calls{
		b: b, self: hex.EncodeToString(self[:]), ready: make(chan struct{}), ended: make(chan struct{}),
		answerers: map[string][]*answerer{}, listeners: map[string][]*listener{}, bells: map[string]*bell{},
		asked: map[string]*asked{}, seen: map[string]*seen{},
	}
}

// begin starts reading, and waits for it for a moment: without a broker there is nothing to wait for.
func (c *calls) begin(ctx context.Context) {
	c.start.Do(func() {
		c.mu.Lock()
		c.started = true
		c.mu.Unlock()
		go c.run()
	})
	timer := time.NewTimer(callWait)
	defer timer.Stop()
	select {
	case <-c.ready:
	case <-timer.C:
	case <-ctx.Done():
	case <-c.b.life.Done():
	}
}

// close waits until nothing is read any more.
func (c *calls) close() {
	c.mu.Lock()
	started := c.started
	c.mu.Unlock()
	if started {
		<-c.ended
	}
}

func (c *calls) ensure(ctx context.Context) (topicInfo, error) {
	info, _, err := c.b.ensure(ctx, c.b.names.calls(), 1, callsSettings())
	return info, err
}

func callsSettings() []setting {
	return []setting{{"retention.ms", callsKept}, {"segment.ms", callsKept}, {"retention.bytes", "67108864"}, {"segment.bytes", "16777216"}}
}

// run reads the topic from its end on, until the Broker is closed.
func (c *calls) run() {
	defer close(c.ended)
	var t tail
	ctx := c.b.life
	for wait := retryPause; ctx.Err() == nil; wait = min(2*wait, retryPauseMax) {
		began := time.Now()
		err := c.read(ctx, &t)
		if ctx.Err() != nil {
			return
		}
		c.b.log.Debug("requests and bells are read again", "reason", err)
		if time.Since(began) > time.Second {
			wait = retryPause
		}
		if stale(err) {
			c.b.renew()
		}
		pause(ctx, wait)
	}
}

func (c *calls) read(ctx context.Context, t *tail) error {
	info, err := c.ensure(ctx)
	if err != nil {
		return err
	}
	if t.info.id != info.id {
		all, err := c.b.bounds(ctx, info)
		if err != nil {
			return err
		}
		next := all[0].end
		if t.info.id != "" {
			next = all[0].first // made anew: all of it is new
		}
		*t = tail{b: c.b, info: info, next: next}
	}
	c.mu.Lock()
	select {
	case <-c.ready:
	default:
		close(c.ready)
	}
	c.mu.Unlock()
	for {
		records, _, err := t.read(ctx)
		if errors.Is(err, kafka.OffsetOutOfRange) {
			t.info.id = "" // what was there has been dropped
		}
		if err != nil {
			return err
		}
		for i := range records {
			c.take(&records[i])
		}
	}
}

// callRecord writes a record of the topic.
func callRecord(kind, name, id, by string, body []byte) record {
	if body == nil {
		body = []byte{}
	}
	var e envelope
	e.set(headerCall, kind)
	e.set(headerName, name)
	e.setIf(headerCID, id)
	e.setIf(headerBy, by)
	return record{value: body, headers: e.headers}
}

func headerOf(headers []protocol.Header, name string) string {
	for _, h := range headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}

// post stores a record, making the topic if it is not there.
func (c *calls) post(ctx context.Context, r record) error {
	if c.b.isClosed() {
		return broker.ErrClosed
	}
	batch := []record{r}
	store := func() error {
		deadline := time.Now().Add(c.b.cfg.AckTimeout)
		if limit, ok := ctx.Deadline(); ok && limit.Before(deadline) {
			deadline = limit
		}
		_, _, err := c.b.storeUntil(ctx, c.b.names.calls(), 0, batch, deadline)
		return err
	}
	err := store()
	if errors.Is(err, broker.ErrNoTopic) {
		if _, err = c.ensure(ctx); err == nil {
			err = store()
		}
	}
	if err != nil && c.b.isClosed() {
		return broker.ErrClosed
	}
	if err != nil {
		return fmt.Errorf("write to topic %s: %w", c.b.names.calls(), refusal(err))
	}
	return nil
}

// take handles one record. It must not block: everybody waits for it.
func (c *calls) take(r *record) {
	kind, name, id := headerOf(r.headers, headerCall), headerOf(r.headers, headerName), headerOf(r.headers, headerCID)
	switch kind {
	case callBell:
		c.rung(name)
	case callRequest:
		c.requested(name, id, r.value)
	case callClaim:
		c.claimed(id, headerOf(r.headers, headerBy) == c.self)
	case callWithdraw:
		c.withdrawn(id)
	case callAnswer:
		c.answered(id, r.value)
	}
}
