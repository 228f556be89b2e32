package kfaketest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/broker"
	kafkabroker "github.com/twostep-mq/twostep/broker/kafka"
)

// eventually waits until cond returns nil.
func eventually(t testing.TB, cond func() error) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		err := cond()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// reading is a running Consume, or several on one log.
type reading struct {
	t      testing.TB
	log    *deliveries
	cancel context.CancelFunc
	done   chan error
}

// deliveries are what several readers of a subscription settled, in the order they did.
type deliveries struct {
	mu  sync.Mutex
	all []broker.Delivery
}

func read(t testing.TB, b *kafkabroker.Broker, src broker.Source, log *deliveries) *reading {
	t.Helper()
	if log == nil {
		log = &deliveries{}
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &reading{t: t, log: log, cancel: cancel, done: make(chan error, 1)}
	go func() {
		r.done <- b.Consume(ctx, src, func(_ context.Context, ds []broker.Delivery) error {
			log.mu.Lock()
			defer log.mu.Unlock()
			log.all = append(log.all, ds...)
			return nil
		})
	}()
	t.Cleanup(cancel)
	return r
}

// stop ends Consume and wants no error.
func (r *reading) stop() {
	r.t.Helper()
	r.cancel()
	select {
	case err := <-r.done:
		if err != nil {
			r.t.Errorf("Consume: %v", err)
		}
	case <-time.After(20 * time.Second):
		r.t.Fatal("Consume did not end with its context")
	}
}

func (l *deliveries) list() []broker.Delivery {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]broker.Delivery(nil), l.all...)
}

// until waits for each of the messages 1..n.
func (r *reading) until(n int) {
	r.t.Helper()
	eventually(r.t, func() error {
		seen := map[int64]bool{}
		for _, d := range r.log.list() {
			seen[d.Seq] = true
		}
		if len(seen) < n {
			return fmt.Errorf("%d of %d messages came", len(seen), n)
		}
		return nil
	})
}

// wantOrder checks that the first delivery of each message came after that of those before it with the same key.
func (r *reading) wantOrder() {
	r.t.Helper()
	seen := map[int64]bool{}
	last := map[string]int64{}
	for _, d := range r.log.list() {
		if seen[d.Seq] {
			continue
		}
		seen[d.Seq] = true
		if d.Seq < last[d.Key] {
			r.t.Fatalf("key %s: message %d came after %d", d.Key, d.Seq, last[d.Key])
		}
		last[d.Key] = d.Seq
	}
}

// again counts what was settled more than once.
func (l *deliveries) again() int {
	seen := map[int64]bool{}
	n := 0
	for _, d := range l.list() {
		if seen[d.Seq] {
			n++
		}
		seen[d.Seq] = true
	}
	return n
}
