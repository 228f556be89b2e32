package watermill_test

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/twostep-mq/twostep/adapters/watermill"
	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/outbox"
)

// subject of a topic; docs/reference.md, "Broker names (NATS)".
func subject(topic string) string { return "twostep.t." + topic + ".p0" }

// Programs without twostep publish to a topic: each message is handled once in effect, though the broker hands it out again; two that
// are alike are two. A Watermill publisher without an outbox is such a program, too.
func TestForeignProducersMessagesAreHandledOnce(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	w.own(w.connect())
	s := w.service("s", w.connect(), outbox.RelayConfig{})
	var lost, handed atomic.Int64
	conn := &forgetful{Broker: w.connect(), unsettled: func(_ broker.Source, ds []broker.Delivery) bool {
		handed.Add(int64(len(ds)))
		return lost.Add(1) <= 3
	}}
	from := subscribe(t, watermill.NewBarrierSubscriber(conn, s.store, barrierConfig()), "orders")
	go handle(from, func(m *message.Message) error {
		tx, _ := watermill.Tx(m.Context())
		return note(m.Context(), tx, string(m.Payload)+"/"+m.UUID)
	})
	nc := w.raw()
	for n := range 20 {
		m := &nats.Msg{Subject: subject("orders"), Data: []byte("alike"), Header: nats.Header{"X-Note": {fmt.Sprint(n % 2)}}}
		if _, err := nc.RequestMsg(m, 5*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	alike := message.NewMessage("alike", []byte("alike"))
	for range 5 {
		if err := watermill.NewPublisher(w.connect(), watermill.PublisherConfig{}).Publish("orders", alike.Copy()); err != nil {
			t.Fatal(err)
		}
	}
	want := 25
	const alikes = "alike/alike" // payload and UUID of five of them
	eventually(t, func() error {
		if n := s.count("effect"); n < want {
			return fmt.Errorf("%d of %d effects", n, want)
		}
		return nil
	})
	eventually(t, func() error {
		if n := lost.Load(); n < 4 {
			return fmt.Errorf("%d batches were settled", n)
		}
		return nil
	})
	got := s.effects()
	for what, n := range got {
		if n != 1 && what != alikes {
			t.Errorf("%s has %d effects", what, n)
		}
	}
	if n := s.count("effect"); n != want || got[alikes] != 5 || len(got) != 21 {
		t.Errorf("%d effects, want %d: %v", n, want, got)
	}
	if handed.Load() <= int64(want) {
		t.Errorf("%d messages were handed out: none of them again", handed.Load())
	}
}

// Readers that are no subscription see each message once on the topic, whatever is sent again to those that lost it.
func TestForeignReadersSeeEachMessageOnce(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	w.own(w.connect())
	cfg := outbox.RelayConfig{Positions: 50 * time.Millisecond, ResendBackoff: func(int) time.Duration { return 50 * time.Millisecond }}
	a := w.service("a", w.connect(), cfg)
	b := w.service("b", w.connect(), outbox.RelayConfig{})
	// The first receipts are lost, and the settling of the first batches: everything is sent again, or handed out again.
	var receipts, batches, again atomic.Int64
	conn := &forgetful{
		Broker: w.connect(),
		lost:   func(inbox string) bool { return strings.HasPrefix(inbox, "outbox.") && receipts.Add(1) <= 10 },
		unsettled: func(src broker.Source, ds []broker.Delivery) bool {
			if src.Inbox != "" {
				again.Add(int64(len(ds)))
			}
			return src.Inbox == "" && batches.Add(1) <= 3
		},
	}
	from := subscribe(t, watermill.NewBarrierSubscriber(conn, b.store, barrierConfig()), "orders")
	go handle(from, func(m *message.Message) error {
		tx, _ := watermill.Tx(m.Context())
		return note(m.Context(), tx, m.UUID)
	})
	stranger := readRaw(t, w.raw(), "orders")
	plain := subscribe(t, watermill.NewSubscriber(w.connect(), watermill.SubscriberConfig{FromStart: true}), "orders")
	var mu sync.Mutex
	seen := map[string]int{}
	go handle(plain, func(m *message.Message) error {
		mu.Lock()
		defer mu.Unlock()
		seen[m.UUID]++
		return nil
	})
	pub := watermill.NewOutboxPublisher(a.box)
	var names []string
	for batch := range 10 {
		ms, some := messages(fmt.Sprintf("batch%d", batch), 1, 10)
		names = append(names, some...)
		if err := pub.Publish("orders", ms...); err != nil {
			t.Fatal(err)
		}
	}
	a.waitReleased()
	b.waitEffects(len(names))
	b.wantOnce(names...)
	if again.Load() == 0 || batches.Load() <= 3 {
		t.Errorf("%d messages sent again, %d batches settled: the test shows nothing", again.Load(), batches.Load())
	}
	eventually(t, func() error {
		mu.Lock()
		defer mu.Unlock()
		if len(seen) < len(names) || len(stranger()) < len(names) {
			return fmt.Errorf("%d and %d of %d messages seen", len(seen), len(stranger()), len(names))
		}
		return nil
	})
	mu.Lock()
	defer mu.Unlock()
	for name, all := range map[string]map[string]int{"Watermill's": seen, "NATS's": stranger()} {
		for what, n := range all {
			if n != 1 {
				t.Errorf("a reader of %s saw %s %d times", name, what, n)
			}
		}
	}
}

// readRaw reads a topic with NATS's own client and counts messages by Watermill's UUID.
func readRaw(t *testing.T, nc *nats.Conn, topic string) func() map[string]int {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	c, err := js.OrderedConsumer(context.Background(), "twostep-t-"+topic, jetstream.OrderedConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	seen := map[string]int{}
	reading, err := c.Consume(func(m jetstream.Msg) {
		mu.Lock()
		defer mu.Unlock()
		seen[m.Headers().Get("watermill-uuid")]++
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(reading.Stop)
	return func() map[string]int {
		mu.Lock()
		defer mu.Unlock()
		return maps.Clone(seen)
	}
}
