package brokertest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/broker"
)

// soon is how long after a fault everything flows again.
const soon = 10 * time.Second

func testRestart(t *testing.T, h Harness) {
	if h.Restart == nil {
		t.Skip("the harness cannot restart its broker")
	}
	b := h.Connect(t)
	src := topicWith(t, b, "restart", false)
	r := read(t, h.Connect(t), src, nil)
	mustPublish(t, b, messages("restart", 1, 100))
	r.atLeast(100)
	h.Restart(t)
	began := time.Now()
	publishUntilStored(t, b, messages("restart", 101, 200))
	r.until(200)
	if took := time.Since(began); took > soon {
		t.Errorf("messages flowed again after %v", took)
	}
	r.stop()
	wantAll(t, r.deliveries(), 1, 200)
}

// until waits for each of the messages 1..n.
func (r *reading) until(n int) {
	r.t.Helper()
	eventually(r.t, func() error {
		seen := map[int64]bool{}
		for _, d := range r.deliveries() {
			seen[d.Seq] = true
		}
		if len(seen) < n {
			return fmt.Errorf("%d of %d messages came", len(seen), n)
		}
		return nil
	})
}

// Under load, with messages on their way in both directions: nothing is skipped, order is kept.
func testRestartKeyed(t *testing.T, h Harness) {
	if h.Restart == nil {
		t.Skip("the harness cannot restart its broker")
	}
	b := h.Connect(t)
	src := topicWith(t, b, "restart-keyed", true)
	src.MaxBatch = 20
	r := read(t, h.Connect(t), src, func([]broker.Delivery) error { time.Sleep(time.Millisecond); return nil })
	mustPublish(t, b, messages("restart-keyed", 1, 1000))
	r.atLeast(100)
	h.Restart(t)
	publishUntilStored(t, b, messages("restart-keyed", 1001, 1001))
	r.until(1001)
	wantAll(t, r.deliveries(), 1, 1001)
}

func testWipeTopic(t *testing.T, h Harness) {
	if h.Wipe == nil {
		t.Skip("the harness cannot wipe its broker")
	}
	for _, keyed := range []bool{false, true} {
		t.Run(fmt.Sprintf("keyed=%v", keyed), func(t *testing.T) {
			b, ctx := h.Connect(t), background(t)
			topic := fmt.Sprintf("wipe-%v", keyed)
			src := topicWith(t, b, topic, keyed)
			r := read(t, h.Connect(t), src, nil)
			old := mustPublish(t, b, messages(topic, 1, 50))
			r.atLeast(50)
			h.Wipe(t)
			began := time.Now()
			publishUntilStored(t, b, messages(topic, 51, 100))
			r.until(100)
			if took := time.Since(began); took > soon {
				t.Errorf("messages flowed again after %v", took)
			}
			ps, err := b.Positions(ctx, topic, []string{uid(1)})
			if err != nil || ps.Stream == old[0].Stream || !ps.Passed(uid(1), old[0]) {
				t.Errorf("positions after the wipe: %+v, %v; before %+v", ps, err, old[0])
			}
			at := mustPublish(t, b, messages(topic, 101, 101))
			if at[0].Stream != ps.Stream {
				t.Errorf("published to incarnation %q, the topic is %q", at[0].Stream, ps.Stream)
			}
			r.until(101)
			r.stop()
			wantAll(t, r.deliveries(), 1, 101)
		})
	}
}

func testWipeInbox(t *testing.T, h Harness) {
	if h.Wipe == nil {
		t.Skip("the harness cannot wipe its broker")
	}
	b, ctx := h.Connect(t), background(t)
	for _, inbox := range []string{"sub." + uid(1), "outbox." + outbox} {
		if err := b.EnsureInbox(ctx, inbox); err != nil {
			t.Fatal(err)
		}
		r := read(t, h.Connect(t), broker.Source{Inbox: inbox}, nil)
		if _, err := b.Send(ctx, inbox, messages("t", 1, 10)); err != nil {
			t.Fatal(err)
		}
		r.atLeast(10)
		h.Wipe(t)
		eventually(t, func() error {
			_, err := b.Send(ctx, inbox, messages("t", 11, 11))
			if errors.Is(err, broker.ErrNoInbox) { // and it is sent again
				err = errors.Join(err, b.EnsureInbox(ctx, inbox))
			}
			return err
		})
		r.until(11)
		r.stop()
	}
}

func testWipeState(t *testing.T, h Harness) {
	if h.Wipe == nil {
		t.Skip("the harness cannot wipe its broker")
	}
	b := h.Connect(t)
	put(t, b, "a", "1")
	put(t, b, "b", "1")
	w := watch(t, h.Connect(t), "")
	w.want("a=1", "b=1", "current")
	if h.Restart != nil {
		h.Restart(t)
		eventually(t, func() error { return b.PutState(background(t), "b", []byte("2")) })
		w.want("a=1", "b=1", "current", "b=2")
	}
	before := len(w.until("current"))
	h.Wipe(t)
	began := time.Now()
	w.until("reset")
	if took := time.Since(began); took > soon {
		t.Errorf("the wipe was noticed after %v", took)
	}
	eventually(t, func() error {
		if seen := w.seen(); seen[len(seen)-1] != "current" || len(seen) != before+2 {
			return fmt.Errorf("events %q: want reset and current at the end", seen)
		}
		return nil
	})
	eventually(t, func() error { return b.PutState(background(t), "c", []byte("1")) })
	w.until("c=1")
}

// Somebody deletes the reader behind our back: it is made again.
func testReaderDeleted(t *testing.T, h Harness) {
	for _, keyed := range []bool{false, true} {
		t.Run(fmt.Sprintf("keyed=%v", keyed), func(t *testing.T) {
			b, ctx := h.Connect(t), background(t)
			topic := fmt.Sprintf("reader-%v", keyed)
			src := topicWith(t, b, topic, keyed)
			src.Subscription.Since = time.Now().UnixNano()
			r := read(t, h.Connect(t), src, nil)
			mustPublish(t, b, messages(topic, 1, 10))
			r.atLeast(10)
			if err := b.DeleteSubscription(ctx, topic, uid(1)); err != nil {
				t.Fatal(err)
			}
			mustPublish(t, b, messages(topic, 11, 20))
			r.until(20)
			wantAll(t, r.deliveries(), 1, 20)
		})
	}
}

func testTopicMadeAnew(t *testing.T, h Harness) {
	b, ctx := h.Connect(t), background(t)
	src := topicWith(t, b, "anew", true)
	r := read(t, h.Connect(t), src, nil)
	mustPublish(t, b, messages("anew", 1, 10))
	r.atLeast(10)
	if err := b.DeleteTopic(ctx, "anew"); err != nil {
		t.Fatal(err)
	}
	publishUntilStored(t, b, messages("anew", 11, 20))
	r.until(20)
	wantAll(t, r.deliveries(), 1, 20)
}

func testClose(t *testing.T, h Harness) {
	b, ctx := h.Connect(t), background(t)
	src := topicWith(t, b, "close", false)
	r := read(t, b, src, nil)
	mustPublish(t, b, messages("close", 1, 1))
	r.atLeast(1)
	r.stop()
	for range 2 {
		if err := b.Close(ctx); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	if err := publish(t, b, messages("close", 2, 2)).errs[0]; !errors.Is(err, broker.ErrClosed) {
		t.Errorf("Publish: %v, want ErrClosed", err)
	}
	if err := b.Consume(ctx, src, nil); !errors.Is(err, broker.ErrClosed) {
		t.Errorf("Consume: %v, want ErrClosed", err)
	}
	if _, err := b.Send(ctx, "sub."+uid(1), messages("close", 1, 1)); !errors.Is(err, broker.ErrClosed) {
		t.Errorf("Send: %v, want ErrClosed", err)
	}
	if err := b.PutState(ctx, "k", nil); !errors.Is(err, broker.ErrClosed) {
		t.Errorf("PutState: %v, want ErrClosed", err)
	}
}
