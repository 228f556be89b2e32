package watermill_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/twostep-mq/twostep/adapters/watermill"
	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

func quickly(n int) time.Duration { return time.Duration(n) * 10 * time.Millisecond }

func barrierConfig(opts ...topics.HandleOption) watermill.BarrierConfig {
	return watermill.BarrierConfig{Group: "accounts", Options: append([]topics.HandleOption{topics.WithBackoff(quickly)}, opts...)}
}

func subscribe(t *testing.T, sub message.Subscriber, topic string) <-chan *message.Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	from, err := sub.Subscribe(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sub.Close(); err != nil {
			t.Error(err)
		}
	})
	return from
}

// Handlers that nack, and a broker that forgets that batches were settled: one effect a message, and every row is released.
func TestBarrierSubscriberOnceInEffect(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	w.own(w.connect())
	a := w.service("a", w.connect(), outbox.RelayConfig{})
	b := w.service("b", w.connect(), outbox.RelayConfig{})
	var lost atomic.Int64
	conn := &forgetful{Broker: w.connect(), unsettled: func(src broker.Source, _ []broker.Delivery) bool {
		return src.Inbox == "" && lost.Add(1) <= 3
	}}
	from := subscribe(t, watermill.NewBarrierSubscriber(conn, b.store, barrierConfig()), "bank.trans-in")
	var calls atomic.Int64
	go handle(from, func(m *message.Message) error {
		tx, ok := watermill.Tx(m.Context())
		if !ok || watermill.IdempotencyKey(m.Context()) == "" {
			t.Error("no transaction in the message's context")
		}
		if err := note(m.Context(), tx, string(m.Payload)); err != nil {
			return err
		}
		if calls.Add(1)%7 == 0 {
			return errors.New("not this time") // and the effect goes with it
		}
		return nil
	})
	ms, names := messages("m", 1, 50)
	if err := watermill.NewOutboxPublisher(a.box).Publish("bank.trans-in", ms...); err != nil {
		t.Fatal(err)
	}
	a.waitReleased()
	b.waitEffects(len(names)) // parked ones run later
	eventually(t, func() error {
		if lost.Load() <= 3 || calls.Load() <= 50 {
			return fmt.Errorf("%d batches settled, %d calls: nothing came again", lost.Load(), calls.Load())
		}
		return nil
	})
	b.wantOnce(names...)
}

// What a handler publishes with its message's context exists if and only if the message counts as handled.
func TestOutboxPublisherJoinsTheHandlersTransaction(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	w.own(w.connect())
	conn := w.connect()
	s := w.service("s", w.connect(), outbox.RelayConfig{})
	pub := watermill.NewOutboxPublisher(s.box)
	first := subscribe(t, watermill.NewBarrierSubscriber(conn, s.store, barrierConfig()), "first")
	second := subscribe(t, watermill.NewBarrierSubscriber(conn, s.store, barrierConfig()), "second")
	ms, names := messages("m", 1, 20)
	if err := pub.Publish("first", ms...); err != nil {
		t.Fatal(err)
	}
	var calls atomic.Int64
	go handle(first, func(in *message.Message) error {
		out := in.Copy()
		out.SetContext(in.Context())
		if err := pub.Publish("second", out); err != nil {
			return err
		}
		if calls.Add(1)%3 == 0 {
			return errors.New("not this time")
		}
		return nil
	})
	var seen atomic.Int64
	go handle(second, func(m *message.Message) error {
		seen.Add(1)
		tx, _ := watermill.Tx(m.Context())
		return note(m.Context(), tx, m.UUID)
	})
	s.waitEffects(len(names))
	s.waitReleased()
	s.wantOnce(names...)
	if calls.Load() <= int64(len(names)) || seen.Load() != int64(len(names)) {
		t.Errorf("%d calls of the first handler, %d of the second: want more than %d, and %[3]d", calls.Load(), seen.Load(), len(names))
	}
}

func TestOutboxPublisherRefusesTwoTransactions(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	w.own(w.connect())
	s := w.service("s", w.connect(), outbox.RelayConfig{})
	pub := watermill.NewOutboxPublisher(s.box)
	from := subscribe(t, watermill.NewBarrierSubscriber(w.connect(), s.store, barrierConfig()), "first")
	ms, _ := messages("m", 1, 1)
	if err := pub.Publish("first", ms...); err != nil {
		t.Fatal(err)
	}
	in := next(t, from)
	defer in.Ack()
	ms, _ = messages("out", 1, 2)
	ms[1].SetContext(in.Context())
	if err := pub.Publish("second", ms...); err == nil {
		t.Error("messages of two transactions were published together")
	}
}

func TestPublisherTx(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	s := w.service("s", w.connect(), outbox.RelayConfig{})
	for _, commit := range []bool{false, true} {
		tx, err := s.db.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		pub := watermill.PublisherTx(s.box, tx)
		ms, _ := messages("m", 1, 3)
		ms[1].Metadata.Set(watermill.KeyMetadata, "anna")
		if err := pub.Publish("bank.trans-in", ms...); err != nil {
			t.Fatal(err)
		}
		if err := pub.Close(); err != nil {
			t.Fatal(err)
		}
		want := 0
		if commit {
			want = 3
			err = tx.Commit()
		} else {
			err = tx.Rollback()
		}
		if n := s.count("twostep_outbox"); err != nil || n != want {
			t.Errorf("commit %v: %d rows, %v, want %d", commit, n, err, want)
		}
	}
	var key string
	if err := s.db.QueryRowContext(t.Context(), `SELECT "key" FROM twostep_outbox WHERE "key" <> ''`).Scan(&key); err != nil || key != "anna" {
		t.Errorf("key %q, %v", key, err)
	}
}

// All messages of one Publish, or none.
func TestOutboxPublisherIsAtomic(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	s := w.service("s", w.connect(), outbox.RelayConfig{})
	pub := watermill.NewOutboxPublisher(s.box)
	ms, _ := messages("m", 1, 3)
	ms[2].Payload = make([]byte, outbox.MaxPayload+1)
	if err := pub.Publish("bank.trans-in", ms...); !errors.Is(err, outbox.ErrInvalid) {
		t.Errorf("Publish of a message that is too large: %v", err)
	}
	if n := s.count("twostep_outbox"); n != 0 {
		t.Errorf("%d rows of a Publish that failed", n)
	}
	if err := pub.Close(); err != nil {
		t.Fatal(err)
	}
	if err := pub.Publish("bank.trans-in", ms[0]); !errors.Is(err, watermill.ErrClosed) {
		t.Errorf("Publish after Close: %v", err)
	}
}

// Close rolls back what has no answer; the message comes again, and its attempt does not count against it.
func TestBarrierSubscriberCloseRollsBack(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	w.own(w.connect())
	a := w.service("a", w.connect(), outbox.RelayConfig{})
	b := w.service("b", w.connect(), outbox.RelayConfig{})
	conn := w.connect()
	sub := watermill.NewBarrierSubscriber(conn, b.store, barrierConfig(topics.WithMaxAttempts(2)))
	from := subscribe(t, sub, "bank.trans-in")
	ms, names := messages("m", 1, 3)
	if err := watermill.NewOutboxPublisher(a.box).Publish("bank.trans-in", ms...); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		m := next(t, from)
		tx, _ := watermill.Tx(m.Context())
		if err := note(m.Context(), tx, m.UUID); err != nil {
			t.Fatal(err)
		}
		of := m.Context()
		if err := sub.Close(); err != nil {
			t.Fatal(err)
		}
		if of.Err() == nil {
			t.Error("the message's context goes on after Close")
		}
		if _, ok := <-from; ok {
			t.Error("a message came after Close")
		}
		if got := b.effects(); len(got) != 0 {
			t.Fatalf("effects of a message without an answer: %v", got)
		}
		sub = watermill.NewBarrierSubscriber(conn, b.store, barrierConfig(topics.WithMaxAttempts(2)))
		from = subscribe(t, sub, "bank.trans-in")
	}
	go handle(from, func(m *message.Message) error {
		tx, _ := watermill.Tx(m.Context())
		return note(m.Context(), tx, m.UUID)
	})
	b.waitEffects(len(names))
	b.wantOnce(names...)
	a.waitReleased()
}

// A message that is nacked too often is a dead letter and holds nobody up.
func TestBarrierSubscriberDeadLetter(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	w.own(w.connect())
	a := w.service("a", w.connect(), outbox.RelayConfig{})
	b := w.service("b", w.connect(), outbox.RelayConfig{})
	from := subscribe(t, watermill.NewBarrierSubscriber(w.connect(), b.store, barrierConfig(topics.WithMaxAttempts(3))), "bank.trans-in")
	var tried atomic.Int64
	go handle(from, func(m *message.Message) error {
		if m.UUID == "m-2" {
			tried.Add(1)
			return errors.New("never")
		}
		tx, _ := watermill.Tx(m.Context())
		return note(m.Context(), tx, m.UUID)
	})
	ms, _ := messages("m", 1, 4)
	if err := watermill.NewOutboxPublisher(a.box).Publish("bank.trans-in", ms...); err != nil {
		t.Fatal(err)
	}
	a.waitReleased()
	eventually(t, func() error {
		dead, err := b.store.Parked(t.Context(), topics.ParkedQuery{State: topics.ParkedDead})
		if err == nil && len(dead) != 1 {
			err = fmt.Errorf("%d dead letters after %d attempts", len(dead), tried.Load())
		}
		return err
	})
	b.wantOnce("m-1", "m-3", "m-4")
}

// A message that nobody takes from its channel does not keep the database from the messages of others.
func TestBarrierSubscriberUnreadTopicHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	w.own(w.connect())
	a := w.service("a", w.connect(), outbox.RelayConfig{})
	b := w.service("b", w.connect(), outbox.RelayConfig{})
	cfg := barrierConfig(topics.WithMaxAttempts(1))
	unread := subscribe(t, watermill.NewBarrierSubscriber(w.connect(), b.store, cfg), "unread")
	read := subscribe(t, watermill.NewBarrierSubscriber(w.connect(), b.store, cfg), "read")
	pub := watermill.NewOutboxPublisher(a.box)
	for _, topic := range []string{"unread", "read"} {
		ms, _ := messages(topic, 1, 3)
		if err := pub.Publish(topic, ms...); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		next(t, read).Ack()
	}
	for range 3 { // what was not taken has not failed
		next(t, unread).Ack()
	}
	a.waitReleased()
}
