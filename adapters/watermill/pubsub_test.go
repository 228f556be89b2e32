package watermill_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"

	"github.com/twostep-mq/twostep/adapters/watermill"
	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/outbox"
)

// oddMessages have what headers cannot carry as it is.
func oddMessages() []*message.Message {
	plain := message.NewMessage("0198cccc-0000-7000-8000-00000000000a", []byte(`{"a":1}`))
	plain.Metadata = message.Metadata{"correlation_id": "abc", "traceparent": "00-1-2-01", watermill.KeyMetadata: "Konto Zürich % \"7\"", "content-type": "application/json; charset=utf-8"}
	odd := message.NewMessage("a b\nü", []byte{0, 255, '\r'})
	odd.Metadata = message.Metadata{
		"CamelCase": "x", "": "no name", "with space": "a b", "ce-id": "mine", "twostep-seq": "7", "nats-x": "y", "watermill-uuid": "not this", "accent": "Grüße, 100 % \"x\"",
		"empty": "", "x\ny": "two\nlines", "content-type": "", "binary": string([]byte{0xff, 0}),
	}
	empty := message.NewMessage("empty", nil)
	return []*message.Message{plain, odd, empty}
}

func same(t *testing.T, got, want *message.Message) {
	t.Helper()
	if want.UUID == "" {
		want.UUID = got.UUID
	}
	if !got.Equals(want) {
		t.Errorf("got %q %q %q\nwant %q %q %q", got.UUID, got.Metadata, got.Payload, want.UUID, want.Metadata, want.Payload)
	}
}

// A message arrives as it was sent, through the broker alone and through outbox and barrier.
func TestMessagesArriveAsTheyWere(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	w.own(w.connect())
	s := w.service("s", w.connect(), outbox.RelayConfig{})
	b := w.connect()
	pubs := map[string]message.Publisher{"broker": watermill.NewPublisher(b, watermill.PublisherConfig{}), "outbox": watermill.NewOutboxPublisher(s.box)}
	for name, pub := range pubs {
		topic := "odd." + name
		plain := subscribe(t, watermill.NewSubscriber(b, watermill.SubscriberConfig{Group: "plain"}), topic)
		barred := subscribe(t, watermill.NewBarrierSubscriber(b, s.store, barrierConfig()), topic)
		for _, m := range oddMessages() {
			if err := pub.Publish(topic, m); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			for _, from := range []<-chan *message.Message{plain, barred} {
				got := next(t, from)
				same(t, got, m.Copy())
				got.Ack()
			}
		}
	}
}

// What other programs can read of it: plain metadata as headers, the key and the content type where CloudEvents has them.
func TestMetadataAreHeadersForOthers(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	b := w.connect()
	nc := w.raw()
	heard := make(chan *nats.Msg, 1)
	if _, err := nc.ChanSubscribe(subject("orders"), heard); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	m := oddMessages()[0]
	m.Metadata.Set(watermill.KeyMetadata, "anna")
	if err := watermill.NewPublisher(b, watermill.PublisherConfig{}).Publish("orders", m); err != nil {
		t.Fatal(err)
	}
	got := <-heard
	for name, want := range map[string]string{
		"ce-id": m.UUID, "correlation_id": "abc", "traceparent": "00-1-2-01", "ce-partitionkey": "anna", "content-type": "application/json; charset=utf-8",
	} {
		if v := got.Header[name]; len(v) != 1 || v[0] != want {
			t.Errorf("header %s: %q, want %q", name, v, want)
		}
	}
}

func TestPublisherErrors(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	pub := watermill.NewPublisher(w.connect(), watermill.PublisherConfig{})
	one := message.NewMessage("one", []byte("x"))
	if err := pub.Publish("no such name!", one); !errors.Is(err, outbox.ErrInvalid) {
		t.Errorf("impossible topic: %v", err)
	}
	large := message.NewMessage("large", make([]byte, 2<<20))
	err := pub.Publish("orders", one, large)
	if !errors.Is(err, broker.ErrTooLarge) || !strings.Contains(err.Error(), "publish to orders: 1 of 2 messages") {
		t.Errorf("message over the broker's limit: %v", err)
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := pub.Publish("orders", message.NewMessageWithContext(ended, "late", nil)); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: %v", err)
	}
	if err := pub.Publish("orders"); err != nil {
		t.Errorf("no messages: %v", err)
	}
	for range 2 {
		if err := pub.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := pub.Publish("orders", one); !errors.Is(err, watermill.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	sub := watermill.NewSubscriber(w.connect(), watermill.SubscriberConfig{})
	if err := sub.Close(); err != nil {
		t.Error(err)
	}
	if _, err := sub.Subscribe(t.Context(), "orders"); !errors.Is(err, watermill.ErrClosed) {
		t.Errorf("Subscribe after Close: %v", err)
	}
}

// Without a group every reader gets everything, and leaves nothing on the broker.
func TestSubscriberWithoutGroup(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	b := w.connect()
	pub := watermill.NewPublisher(b, watermill.PublisherConfig{})
	subs := []*watermill.Subscriber{}
	froms := []<-chan *message.Message{}
	for range 3 {
		sub := watermill.NewSubscriber(b, watermill.SubscriberConfig{})
		subs, froms = append(subs, sub), append(froms, subscribe(t, sub, "orders"))
	}
	ms, names := messages("m", 1, 5)
	if err := pub.Publish("orders", ms...); err != nil {
		t.Fatal(err)
	}
	for i, from := range froms {
		for _, want := range names {
			m := next(t, from)
			if m.UUID != want {
				t.Errorf("reader %d got %s, want %s", i, m.UUID, want)
			}
			m.Ack()
		}
		if err := subs[i].Close(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, func() error {
		info, err := w.raw().Request("$JS.API.CONSUMER.NAMES.twostep-t-orders", nil, time.Second)
		if err == nil && !strings.Contains(string(info.Data), `"total":0`) {
			err = fmt.Errorf("readers are left: %s", info.Data)
		}
		return err
	})
}
