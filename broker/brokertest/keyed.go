package brokertest

import (
	"sync/atomic"
	"testing"

	"github.com/twostep-mq/twostep/broker"
)

func (h Harness) needsStandby(t *testing.T) {
	t.Helper()
	if h.Shared {
		t.Skip("readers of this broker do not stand by for each other")
	}
}

func testKeyedOneAtATime(t *testing.T, h Harness) {
	h.needsStandby(t)
	b := h.Connect(t)
	src := topicWith(t, b, "keyed", true)
	var running atomic.Int64
	alone := func([]broker.Delivery) error {
		if running.Add(1) > 1 {
			t.Error("two processes handle a keyed subscription at a time")
		}
		defer running.Add(-1)
		return nil
	}
	r1, r2 := read(t, h.Connect(t), src, alone), read(t, h.Connect(t), src, alone)
	for from := 1; from <= 2000; from += 100 {
		mustPublish(t, b, messages("keyed", from, from+99))
	}
	one, none := r1, r2
	eventually(t, func() error {
		if len(r2.deliveries()) > 0 {
			one, none = r2, r1
		}
		return nil
	})
	wantSeqs(t, one.atLeast(2000), 1, 2000)
	if got := none.deliveries(); len(got) > 0 {
		t.Errorf("the other process got %d messages: %v", len(got), brief(got))
	}
}

// A reader that ends hands over at once, in order, and nothing looks as if it had been tried.
func testKeyedGoodbye(t *testing.T, h Harness) {
	h.needsStandby(t)
	b := h.Connect(t)
	src := topicWith(t, b, "goodbye", true)
	src.MaxBatch = 10
	in, out := make(chan struct{}), make(chan struct{})
	r1 := read(t, h.Connect(t), src, func(ds []broker.Delivery) error {
		if ds[len(ds)-1].Seq > 20 {
			close(in)
			<-out
		}
		return nil
	})
	mustPublish(t, b, messages("goodbye", 1, 20))
	r1.atLeast(20)
	mustPublish(t, b, messages("goodbye", 21, 100))
	<-in
	r2 := read(t, h.Connect(t), src, nil)
	r1.cancel()
	close(out)
	r1.stop()
	handled := r1.deliveries()
	n := int(handled[len(handled)-1].Seq)
	wantSeqs(t, handled, 1, n)
	ds := r2.atLeast(100 - n)
	wantSeqs(t, ds, n+1, 100)
	for _, d := range ds {
		if d.Redelivered {
			t.Fatalf("message %d was only fetched ahead by the process that ended, but is marked redelivered", d.Seq)
		}
	}
}

// A reader that dies leaves messages in the middle. The next one begins with them, in order, and is warned of them.
func testKeyedDeath(t *testing.T, h Harness) {
	h.needsStandby(t)
	b, victim := h.Connect(t), h.Connect(t)
	src := topicWith(t, b, "death", true)
	src.MaxBatch = 10
	in, out := make(chan struct{}), make(chan struct{})
	var (
		once   atomic.Bool
		killed []broker.Delivery
	)
	r1 := read(t, victim, src, func(ds []broker.Delivery) error {
		if ds[len(ds)-1].Seq <= 20 {
			return nil
		}
		if once.CompareAndSwap(false, true) {
			killed = ds
			close(in)
			<-out
		}
		return errHandler
	})
	mustPublish(t, b, messages("death", 1, 20))
	r1.atLeast(20)
	mustPublish(t, b, messages("death", 21, 60))
	<-in
	if err := victim.Close(background(t)); err != nil {
		t.Fatal(err)
	}
	r2 := read(t, h.Connect(t), src, nil)
	mustPublish(t, b, messages("death", 61, 100))
	ds := r2.atLeast(80)
	close(out)
	wantSeqs(t, ds, 21, 100)
	for _, d := range ds[:len(killed)] {
		if !d.Redelivered {
			t.Errorf("message %d was in the hands of the process that died, but is not marked redelivered", d.Seq)
		}
	}
	if last := ds[len(ds)-1]; last.Redelivered {
		t.Errorf("message %d was never delivered before, but is marked redelivered", last.Seq)
	}
}
