package watermill_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"

	"github.com/twostep-mq/twostep/adapters/watermill"
	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/broker/brokertest"
	"github.com/twostep-mq/twostep/outbox"
)

// roundabout is NATS through Watermill: this package's own publisher and subscribers, as somebody else's pub/sub.
func roundabout(w *town, cfg watermill.BrokerConfig) *watermill.Broker {
	w.t.Helper()
	under := w.connect()
	if cfg.StateWait == 0 {
		cfg.StateWait = 300 * time.Millisecond
	}
	b := watermill.FromWatermill(watermill.NewPublisher(under, watermill.PublisherConfig{}), func(group string) (message.Subscriber, error) {
		return watermill.NewSubscriber(under, watermill.SubscriberConfig{Group: group, NackPause: 10 * time.Millisecond}), nil
	}, cfg)
	w.t.Cleanup(func() {
		if err := b.Close(context.Background()); err != nil {
			w.t.Error(err)
		}
	})
	return b
}

func TestBrokerSuite(t *testing.T) {
	t.Parallel()
	const (
		times    = "Watermill knows no positions: those of this broker stand for times"
		stays    = "Watermill removes nothing"
		retained = "what a new group begins with is the pub/sub's affair"
		local    = "over Watermill no other process can be asked"
	)
	lacks := map[string]string{
		"Topics/AbsentTopic":          "a pub/sub makes its topics by itself",
		"Topics/Incarnation":          stays,
		"Topics/Positions":            times,
		"Topics/SubscriptionSince":    retained,
		"Publish/OrderAndPositions":   times,
		"Publish/TenThousand":         "a message at a time is a round trip each",
		"Consume/Batches":             "a pub/sub's subscriber hands out one message at a time",
		"Consume/EndsAfterTheHandler": times,
		"Inbox/Full":                  "a pub/sub does not say how much lies in a queue",
		"Inbox/Delete":                stays,
		"Requests/Answer":             local,
		"Requests/OneOfSeveral":       local,
		"Requests/Ring":               local,
	}
	brokertest.Run(t, func(t *testing.T) brokertest.Harness {
		w := newTown(t)
		return brokertest.Harness{
			Connect:       func(*testing.T) broker.Broker { return roundabout(w, watermill.BrokerConfig{MaxBytes: 1 << 20}) },
			Restart:       func(*testing.T) { w.stop(); w.start() },
			Silence:       2 * time.Second,
			InboxMessages: 100,
			TooLarge:      2 << 20,
			Shared:        true,
			Lacks:         lacks,
		}
	})
}

// channel is Watermill's own pub/sub in memory. It has no groups, keeps nothing and no order.
func channel(t *testing.T) func(watermill.BrokerConfig) *watermill.Broker {
	t.Helper()
	under := gochannel.NewGoChannel(gochannel.Config{}, nil)
	t.Cleanup(func() { _ = under.Close() })
	return func(cfg watermill.BrokerConfig) *watermill.Broker {
		cfg.StateWait = 300 * time.Millisecond
		b := watermill.FromWatermill(under, func(string) (message.Subscriber, error) { return leftOpen{under}, nil }, cfg)
		t.Cleanup(func() {
			if err := b.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
		return b
	}
}

// leftOpen is one subscriber of many on something shared. Its subscriptions end with their contexts.
type leftOpen struct{ message.Subscriber }

func (leftOpen) Close() error { return nil }

// Owner, relay and handler on a pub/sub that knows nothing of them: receipts release, what was lost is sent again after a time, each
// message has one effect, and those of a key come in order.
func TestBrokerCarriesEverything(t *testing.T) {
	t.Parallel()
	t.Run("roundabout", func(t *testing.T) {
		t.Parallel()
		w := newTown(t)
		carriesEverything(w, func(cfg watermill.BrokerConfig) *watermill.Broker { return roundabout(w, cfg) })
	})
	t.Run("gochannel", func(t *testing.T) {
		t.Parallel()
		carriesEverything(&town{t: t, folder: t.TempDir()}, channel(t))
	})
}

func carriesEverything(w *town, connect func(watermill.BrokerConfig) *watermill.Broker) {
	t := w.t
	cfg := watermill.BrokerConfig{ResendAfter: 500 * time.Millisecond}
	w.own(connect(cfg))
	a := w.service("a", connect(cfg), outbox.RelayConfig{Positions: 100 * time.Millisecond, ResendBackoff: func(int) time.Duration { return 200 * time.Millisecond }})
	b := w.service("b", connect(cfg), outbox.RelayConfig{})
	var receipts, again atomic.Int64
	lossy := &forgetful{
		Broker: connect(cfg),
		lost:   func(inbox string) bool { return strings.HasPrefix(inbox, "outbox.") && receipts.Add(1) <= 10 },
		unsettled: func(src broker.Source, ds []broker.Delivery) bool {
			if src.Inbox != "" {
				again.Add(int64(len(ds)))
			}
			return false
		},
	}
	sub := barrierConfig()
	sub.Keyed = true
	from := subscribe(t, watermill.NewBarrierSubscriber(lossy, b.store, sub), "bank.trans-in")
	var mu sync.Mutex
	order := map[string][]string{}
	go handle(from, func(m *message.Message) error {
		tx, _ := watermill.Tx(m.Context())
		mu.Lock()
		key := m.Metadata.Get(watermill.KeyMetadata)
		order[key] = append(order[key], m.UUID)
		mu.Unlock()
		return note(m.Context(), tx, m.UUID)
	})
	pub := watermill.NewOutboxPublisher(a.box)
	var names []string
	want := map[string][]string{}
	for n := range 10 {
		ms, some := messages(fmt.Sprintf("m%d", n), 1, 10)
		for i, m := range ms {
			key := fmt.Sprintf("Zürich %d", i%3)
			m.Metadata.Set(watermill.KeyMetadata, key)
			want[key] = append(want[key], m.UUID)
		}
		if err := pub.Publish("bank.trans-in", ms...); err != nil {
			t.Fatal(err)
		}
		names = append(names, some...)
	}
	a.waitReleased()
	b.waitEffects(len(names))
	b.wantOnce(names...)
	mu.Lock()
	defer mu.Unlock()
	if !maps.EqualFunc(order, want, slices.Equal) {
		t.Errorf("order by key:\n got %v\nwant %v", order, want)
	}
	if again.Load() == 0 {
		t.Error("nothing was sent again: the test shows nothing")
	}
}

// Messages of others on the pub/sub: Watermill's UUID is their identity.
func TestBrokerForeignMessages(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	under := w.connect()
	b := roundabout(w, watermill.BrokerConfig{})
	src := broker.Source{Subscription: broker.SubscriptionSpec{UID: "0198bbbb-0000-7000-8000-000000000001", Topic: "orders"}}
	if err := b.EnsureSubscription(t.Context(), src.Subscription); err != nil {
		t.Fatal(err)
	}
	pub := watermill.NewPublisher(under, watermill.PublisherConfig{})
	one := message.NewMessage("one", []byte("x"))
	one.Metadata.Set("Note", "50 %")
	for _, m := range []*message.Message{one, one.Copy(), message.NewMessage("two", nil)} {
		if err := pub.Publish("orders", m); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got []broker.Delivery
	err := b.Consume(ctx, src, func(_ context.Context, ds []broker.Delivery) error {
		if got = append(got, ds...); len(got) >= 3 {
			cancel()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"watermill/orders/one", "watermill/orders/one", "watermill/orders/two"} {
		if got[i].ID != want || !got[i].Foreign() || got[i].Topic != "orders" {
			t.Errorf("message %d: id %q, want %q; foreign %v", i, got[i].ID, want, got[i].Foreign())
		}
	}
	if got[0].Headers["note"] != "50 %" {
		t.Errorf("headers %q", got[0].Headers)
	}
}

func TestBrokerRefusals(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	b := roundabout(w, watermill.BrokerConfig{MaxBytes: 1000})
	ctx := t.Context()
	for _, tt := range []struct {
		m    broker.Message
		want error
	}{
		{broker.Message{Topic: "twostep.inbox.x"}, broker.ErrInvalid},
		{broker.Message{Topic: "no name"}, broker.ErrInvalid},
		{broker.Message{Topic: "t", Headers: map[string]string{"twostep-gid": "x"}}, broker.ErrInvalid},
		{broker.Message{Topic: "t", Payload: make([]byte, 1000)}, broker.ErrTooLarge},
	} {
		done := make(chan error, 1)
		b.Publish(ctx, []*broker.Message{&tt.m}, func(_ int, _ broker.Position, err error) { done <- err })
		if err := <-done; !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.m.Topic, err, tt.want)
		}
	}
	if _, err := b.Request(ctx, "nobody", nil); !errors.Is(err, broker.ErrNoAnswer) {
		t.Errorf("Request: %v", err)
	}
	if err := b.PutState(ctx, "k", make([]byte, 900_001)); err == nil {
		t.Error("a value over the limit was taken")
	}
}
