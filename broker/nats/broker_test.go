package nats_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/broker"
	natsbroker "github.com/twostep-mq/twostep/broker/nats"
)

// Two topics whose streams would have one name: the second is refused, not mixed up with the first.
func TestTopicsWrittenAlike(t *testing.T) {
	t.Parallel()
	f := startServer(t)
	b := f.connect(t, f.config())
	if err := b.EnsureTopic(t.Context(), broker.TopicSpec{Name: "a.b"}); err != nil {
		t.Fatal(err)
	}
	err := b.EnsureTopic(t.Context(), broker.TopicSpec{Name: "a_-b"})
	if err == nil || !strings.Contains(err.Error(), "choose another name") {
		t.Errorf("EnsureTopic: %v", err)
	}
	src := broker.Source{Subscription: broker.SubscriptionSpec{UID: "u", Topic: "a_-b"}}
	if err := b.Consume(t.Context(), src, nil); err == nil || !strings.Contains(err.Error(), "choose another name") {
		t.Errorf("Consume: %v", err)
	}
}

func TestNamesAreChecked(t *testing.T) {
	t.Parallel()
	f := startServer(t)
	b := f.connect(t, f.config())
	ctx := t.Context()
	for _, name := range []string{"", "a b", "*", "a.>", "a..b", ".a", "ü", strings.Repeat("x", 201)} {
		sub := broker.SubscriptionSpec{UID: name, Topic: "t"}
		_, sendErr := b.Send(ctx, name, nil)
		_, requestErr := b.Request(ctx, name, nil)
		_, answerErr := b.Answer(ctx, name, nil)
		_, listenErr := b.Listen(ctx, name, nil)
		_, positionsErr := b.Positions(ctx, name, nil)
		for call, err := range map[string]error{
			"EnsureTopic": b.EnsureTopic(ctx, broker.TopicSpec{Name: name}), "DeleteTopic": b.DeleteTopic(ctx, name),
			"EnsureSubscription": b.EnsureSubscription(ctx, sub), "DeleteSubscription": b.DeleteSubscription(ctx, "t", name),
			"EnsureInbox": b.EnsureInbox(ctx, name), "DeleteInbox": b.DeleteInbox(ctx, name), "PutState": b.PutState(ctx, name, nil),
			"Ring": b.Ring(ctx, name), "Consume": b.Consume(ctx, broker.Source{Subscription: sub}, nil),
			"Send": sendErr, "Request": requestErr, "Answer": answerErr, "Listen": listenErr, "Positions": positionsErr,
		} {
			if err == nil {
				t.Errorf("%s took the name %q", call, name)
			}
		}
	}
	for _, prefix := range []string{"a.b", "a b", "*", strings.Repeat("x", 33)} {
		cfg := f.config()
		cfg.Prefix = prefix
		if _, err := natsbroker.Connect(ctx, cfg); err == nil || !strings.Contains(err.Error(), "broker.prefix") {
			t.Errorf("prefix %q: %v", prefix, err)
		}
	}
}

// A topic that may not drop its oldest refuses the newest, and another one drops.
func TestFullTopic(t *testing.T) {
	t.Parallel()
	f := startServer(t)
	cfg := f.config()
	cfg.TopicMaxBytes = 1 << 20
	b := f.connect(t, cfg)
	for _, retained := range []bool{true, false} {
		topic := map[bool]string{true: "retained", false: "dropping"}[retained]
		if err := b.EnsureTopic(t.Context(), broker.TopicSpec{Name: topic, Retained: retained}); err != nil {
			t.Fatal(err)
		}
		var full int
		for range 20 {
			done := make(chan error, 1)
			b.Publish(t.Context(), []*broker.Message{{ID: "m", Topic: topic, Payload: make([]byte, 100_000)}},
				func(_ int, _ broker.Position, err error) { done <- err })
			if err := <-done; errors.Is(err, broker.ErrFull) {
				full++
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if (full > 0) != retained {
			t.Errorf("%s: %d of 20 messages refused", topic, full)
		}
	}
}

// Prefixes keep installations apart.
func TestPrefix(t *testing.T) {
	t.Parallel()
	f := startServer(t)
	one, cfg := f.connect(t, f.config()), f.config()
	cfg.Prefix = "other"
	two := f.connect(t, cfg)
	if err := one.EnsureTopic(t.Context(), broker.TopicSpec{Name: "t"}); err != nil {
		t.Fatal(err)
	}
	if _, err := two.Positions(t.Context(), "t", nil); !errors.Is(err, broker.ErrNoTopic) {
		t.Errorf("the other installation sees the topic: %v", err)
	}
}

func TestConnectEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := natsbroker.Connect(ctx, natsbroker.Config{URL: "nats://user:secret@127.0.0.1:1"})
	if err == nil || !strings.Contains(err.Error(), "broker.url") || strings.Contains(err.Error(), "secret") {
		t.Errorf("Connect: %v", err)
	}
}

// While the broker is away, Publish and Send give up after the time configured, once and not for each message.
func TestBrokerAway(t *testing.T) {
	t.Parallel()
	f := startServer(t)
	cfg := f.config()
	cfg.AckTimeout = 300 * time.Millisecond
	b := f.connect(t, cfg)
	if err := b.EnsureTopic(t.Context(), broker.TopicSpec{Name: "t"}); err != nil {
		t.Fatal(err)
	}
	f.stop(t)
	defer f.start(t)
	began := time.Now()
	results := make(chan error, 50)
	ms := make([]*broker.Message, 50)
	for i := range ms {
		ms[i] = &broker.Message{ID: "m", Topic: "t"}
	}
	b.Publish(t.Context(), ms, func(_ int, _ broker.Position, err error) { results <- err })
	for range ms {
		if err := <-results; err == nil {
			t.Error("a message was acknowledged by nobody")
		}
	}
	if _, err := b.Send(t.Context(), "sub.u", ms); err == nil {
		t.Error("Send succeeded")
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}
