package brokertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/twostep-mq/twostep/broker"
)

// watching is a running WatchState that notes what it is told.
type watching struct {
	t *testing.T

	mu     sync.Mutex
	events []string
}

func watch(t *testing.T, b broker.Broker, prefix string) *watching {
	t.Helper()
	w := &watching{t: t}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- b.WatchState(ctx, prefix, func(e broker.StateEvent) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.events = append(w.events, describe(e))
			return nil
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, broker.ErrClosed) {
			t.Errorf("WatchState: %v", err)
		}
	})
	return w
}

func describe(e broker.StateEvent) string {
	switch {
	case e.Reset:
		return "reset"
	case e.Current:
		return "current"
	case e.Value == nil:
		return "-" + e.Key
	}
	return e.Key + "=" + string(e.Value)
}

func (w *watching) seen() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.events)
}

// until waits for the event, and returns all up to now.
func (w *watching) until(event string) []string {
	w.t.Helper()
	eventually(w.t, func() error {
		if seen := w.seen(); !slices.Contains(seen, event) {
			return fmt.Errorf("no %q in %q", event, seen)
		}
		return nil
	})
	return w.seen()
}

func (w *watching) want(events ...string) {
	w.t.Helper()
	if got := w.until(events[len(events)-1]); !slices.Equal(got, events) {
		w.t.Fatalf("events %q, want %q", got, events)
	}
}

func put(t *testing.T, b broker.Broker, key, value string) {
	t.Helper()
	if err := b.PutState(background(t), key, []byte(value)); err != nil {
		t.Fatal(err)
	}
}

func testStateWatch(t *testing.T, h Harness) {
	b, other, ctx := h.Connect(t), h.Connect(t), background(t)
	empty := watch(t, other, "")
	empty.want("current")
	put(t, b, "a.1", "x")
	put(t, b, "a.2", "y")
	put(t, b, "a.1", "z")
	if err := b.DeleteState(ctx, "a.2"); err != nil {
		t.Fatal(err)
	}
	if err := b.DeleteState(ctx, "never.there"); err != nil {
		t.Fatal(err)
	}
	put(t, b, "a.3", "")
	put(t, b, "end", "1")
	events := empty.until("end=1")
	// What was overwritten before it was seen may be skipped.
	if i, j := slices.Index(events, "a.1=z"), slices.Index(events, "-a.2"); i < 0 || j < i || !slices.Contains(events, "a.3=") {
		t.Errorf("events %q", events)
	}
	late := watch(t, other, "")
	late.until("current")
	put(t, b, "end", "2")
	events = late.until("end=2")
	at := slices.Index(events, "current")
	for _, e := range []string{"a.1=z", "a.3=", "end=1"} {
		if i := slices.Index(events, e); i < 0 || i > at {
			t.Errorf("%q is not before current in %q", e, events)
		}
	}
	if slices.Contains(events, "a.1=x") || slices.Contains(events, "a.2=y") {
		t.Errorf("values that are gone in %q", events)
	}
	big := make([]byte, 900_000)
	if err := b.PutState(ctx, "big", big); err != nil {
		t.Errorf("value of %d bytes: %v", len(big), err)
	}
}

func testStatePrefix(t *testing.T, h Harness) {
	b := h.Connect(t)
	for _, key := range []string{"outbox.1", "outbox.2", "outboxes.3", "registry.head", "registry.topic.t"} {
		put(t, b, key, "v")
	}
	watch(t, b, "outbox.").want("outbox.1=v", "outbox.2=v", "current")
	watch(t, b, "outbox").want("outbox.1=v", "outbox.2=v", "outboxes.3=v", "current")
	watch(t, b, "registry.topic.").want("registry.topic.t=v", "current")
	watch(t, b, "nothing.").want("current")
	w := watch(t, b, "registry.")
	w.want("registry.head=v", "registry.topic.t=v", "current")
	put(t, b, "outbox.1", "w")
	put(t, b, "registry.head", "w")
	w.want("registry.head=v", "registry.topic.t=v", "current", "registry.head=w")
}

func testStateOrder(t *testing.T, h Harness) {
	b := h.Connect(t)
	w1, w2 := watch(t, h.Connect(t), ""), watch(t, h.Connect(t), "")
	w1.until("current")
	w2.until("current")
	var wg sync.WaitGroup
	for g := range 2 {
		wg.Go(func() {
			for n := range 200 {
				if err := b.PutState(t.Context(), fmt.Sprintf("k.%d.%d", g, n), []byte("v")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	put(t, b, "end", "1")
	if a, b := w1.until("end=1"), w2.until("end=1"); !slices.Equal(a, b) || len(a) != 402 {
		t.Errorf("two watchers saw %d and %d events, or different orders", len(a), len(b))
	}
}

func testStateFunctionFails(t *testing.T, h Harness) {
	b := h.Connect(t)
	put(t, b, "k", "v")
	calls := 0
	err := b.WatchState(background(t), "", func(broker.StateEvent) error {
		calls++
		return errHandler
	})
	if !errors.Is(err, errHandler) || calls != 1 {
		t.Errorf("WatchState: %v after %d calls", err, calls)
	}
}
