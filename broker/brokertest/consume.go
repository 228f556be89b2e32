package brokertest

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/broker"
)

var errHandler = errors.New("the handler failed")

func testHandlerFails(t *testing.T, h Harness) {
	b, ctx := h.Connect(t), background(t)
	src := topicWith(t, b, "fails", false)
	at := mustPublish(t, b, messages("fails", 1, 30))
	var calls atomic.Int64
	r := read(t, b, src, func(ds []broker.Delivery) error {
		if calls.Add(1) > 2 {
			return nil
		}
		if ps, err := b.Positions(ctx, "fails", []string{uid(1)}); err != nil || ps.Passed(uid(1), at[0]) {
			t.Errorf("unsettled, but passed: %+v, %v", ps, err)
		}
		return errHandler
	})
	wantAll(t, r.atLeast(30), 1, 30)
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, batch := range r.batches {
		for _, d := range batch {
			if want := i > 0 && d.Seq <= int64(len(r.batches[0])); d.Redelivered != want {
				t.Fatalf("batch %d, message %d: redelivered %v, want %v", i, d.Seq, d.Redelivered, want)
			}
		}
	}
}

// A process whose handler always fails does not keep the messages from another one.
func testHandlerKeepsFailing(t *testing.T, h Harness) {
	for _, keyed := range []bool{false, true} {
		t.Run(fmt.Sprintf("keyed=%v", keyed), func(t *testing.T) {
			sick, well := h.Connect(t), h.Connect(t)
			topic := fmt.Sprintf("sick-%v", keyed)
			src := topicWith(t, sick, topic, keyed)
			failed := make(chan struct{}, 1000)
			read(t, sick, src, func([]broker.Delivery) error {
				failed <- struct{}{}
				return errHandler
			})
			mustPublish(t, sick, messages(topic, 1, 20))
			<-failed
			r := read(t, well, src, nil)
			eventually(t, func() error {
				seen := map[int64]bool{}
				for _, d := range r.deliveries() {
					seen[d.Seq] = true
				}
				if len(seen) < 20 {
					return fmt.Errorf("%d of 20 messages reached the other process", len(seen))
				}
				return nil
			})
		})
	}
}

func testBatches(t *testing.T, h Harness) {
	b := h.Connect(t)
	src := topicWith(t, b, "batches", false)
	src.MaxBatch = 50
	var running, most atomic.Int64
	hold := make(chan struct{})
	r := read(t, b, src, func(ds []broker.Delivery) error {
		if running.Add(1) > 1 {
			t.Error("two calls of the handler at a time")
		}
		defer running.Add(-1)
		<-hold
		most.Store(max(most.Load(), int64(len(ds))))
		return nil
	})
	mustPublish(t, b, messages("batches", 1, 500))
	close(hold)
	wantSeqs(t, r.atLeast(500), 1, 500)
	if n := most.Load(); n > 50 || n < 10 {
		t.Errorf("the largest batch had %d messages, want 10 to 50", n)
	}
	// One message alone does not wait for others.
	began := time.Now()
	mustPublish(t, b, messages("batches", 501, 501))
	r.atLeast(501)
	if took := time.Since(began); took > time.Second {
		t.Errorf("a single message took %v", took)
	}
}

func testEndsAfterHandler(t *testing.T, h Harness) {
	b := h.Connect(t)
	src := topicWith(t, b, "ends", false)
	in, out := make(chan struct{}), make(chan struct{})
	var ended atomic.Bool
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- b.Consume(ctx, src, func(ctx context.Context, _ []broker.Delivery) error {
			close(in)
			<-out
			if ctx.Err() == nil {
				t.Error("the handler's context did not end")
			}
			ended.Store(true)
			return nil
		})
	}()
	at := mustPublish(t, b, messages("ends", 1, 1))
	<-in
	cancel()
	select {
	case err := <-done:
		t.Fatalf("Consume returned %v while the handler ran", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(out)
	if err := <-done; err != nil || !ended.Load() {
		t.Fatalf("Consume: %v, handler ended %v", err, ended.Load())
	}
	eventually(t, func() error {
		ps, err := b.Positions(background(t), "ends", []string{uid(1)})
		if err == nil && !ps.Passed(uid(1), at[0]) {
			err = fmt.Errorf("what the last call settled is not passed: %+v", ps)
		}
		return err
	})
}

// A handler that takes longer than the broker's patience keeps its messages: nobody else gets them, nor those fetched ahead.
func testSlowHandler(t *testing.T, h Harness) {
	for _, keyed := range []bool{false, true} {
		t.Run(fmt.Sprintf("keyed=%v", keyed), func(t *testing.T) {
			b, other := h.Connect(t), h.Connect(t)
			topic := fmt.Sprintf("slow-%v", keyed)
			src := topicWith(t, b, topic, keyed)
			src.MaxBatch = 5
			in, out := make(chan struct{}), make(chan struct{})
			var once atomic.Bool
			r := read(t, b, src, func([]broker.Delivery) error {
				if once.CompareAndSwap(false, true) {
					close(in)
					<-out
				}
				return nil
			})
			mustPublish(t, b, messages(topic, 1, 1))
			<-in
			mustPublish(t, b, messages(topic, 2, 4))
			r2 := read(t, other, src, nil)
			// What comes later is a temptation to choose another reader.
			time.AfterFunc(h.Silence, func() { mustPublishAsync(t, b, messages(topic, 5, 6)) })
			time.AfterFunc(2*h.Silence, func() { close(out) })
			eventually(t, func() error {
				if n := len(r.deliveries()) + len(r2.deliveries()); n < 6 {
					return fmt.Errorf("%d of 6 messages settled", n)
				}
				return nil
			})
			if keyed && !h.Shared {
				wantSeqs(t, r.deliveries(), 1, 6)
			}
			seen := map[int64]int{}
			for _, d := range append(r.deliveries(), r2.deliveries()...) {
				if seen[d.Seq]++; seen[d.Seq] > 1 || d.Redelivered {
					t.Errorf("message %d was delivered again", d.Seq)
				}
			}
		})
	}
}

func testShared(t *testing.T, h Harness) {
	connect := h.Connect
	if h.Spread != nil {
		connect = h.Spread
	}
	b := connect(t)
	src := topicWith(t, b, "shared", false)
	src.MaxBatch = 20
	slowly := func([]broker.Delivery) error { time.Sleep(time.Millisecond); return nil }
	r1, r2 := read(t, connect(t), src, slowly), read(t, connect(t), src, slowly)
	all := 0
	eventually(t, func() error { // a reader may come late
		mustPublish(t, b, messages("shared", all+1, all+500))
		all += 500
		if len(r1.deliveries()) == 0 || len(r2.deliveries()) == 0 {
			return fmt.Errorf("%d and %d of %d messages: one reader got none", len(r1.deliveries()), len(r2.deliveries()), all)
		}
		return nil
	})
	eventually(t, func() error {
		if n := len(r1.deliveries()) + len(r2.deliveries()); n < all {
			return fmt.Errorf("%d of %d messages delivered", n, all)
		}
		return nil
	})
	seen := map[int64]int{}
	for _, d := range append(r1.deliveries(), r2.deliveries()...) {
		if seen[d.Seq]++; seen[d.Seq] > 1 {
			t.Errorf("message %d was delivered twice", d.Seq)
		}
	}
}

func testForeign(t *testing.T, h Harness) {
	if h.Foreign == nil {
		t.Skip("the harness has no foreign producer")
	}
	b, ctx := h.Connect(t), background(t)
	src := topicWith(t, b, "foreign", false)
	h.Foreign(t, "foreign", "hello", "x-note", "a b % c")
	h.Foreign(t, "foreign", "", "ce-id", messageID(7))
	r := read(t, b, src, nil)
	ds := r.atLeast(2)
	r.stop()
	for i, d := range ds {
		if want := broker.ForeignID("foreign", d.Position, d.Stored); !d.Foreign() || d.ID != want || d.Topic != "foreign" {
			t.Errorf("message %d: foreign %v, id %q, want %q, topic %q", i, d.Foreign(), d.ID, want, d.Topic)
		}
	}
	if string(ds[0].Payload) != "hello" || ds[0].Headers["x-note"] != "a b % c" {
		t.Errorf("payload %q, headers %v", ds[0].Payload, ds[0].Headers)
	}
	if ds[0].ID == ds[1].ID {
		t.Error("two foreign messages have one identity")
	}
	// The topic made anew gives the same positions again: not the same identities.
	if err := b.DeleteTopic(ctx, "foreign"); err != nil {
		t.Fatal(err)
	}
	src = topicWith(t, b, "foreign", false)
	h.Foreign(t, "foreign", "hello", "x-note", "again")
	again := read(t, b, src, nil).atLeast(1)
	if again[0].ID == ds[0].ID {
		t.Errorf("identity %q was given twice", again[0].ID)
	}
}
