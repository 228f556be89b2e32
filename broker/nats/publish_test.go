package nats_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/twostep-mq/twostep/broker"
	natsbroker "github.com/twostep-mq/twostep/broker/nats"
)

// A stream that does not answer, here because the account may not ask about it, does not keep the messages of other topics
// waiting, however many messages of its own are to be published.
func TestSilentStreamDoesNotBlockOthers(t *testing.T) {
	t.Parallel()
	ns, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true,
		Users: []*server.User{{Username: "u", Password: "p", Permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Deny: []string{"$JS.API.STREAM.INFO.twostep-t-silent"}},
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	ns.Start()
	t.Cleanup(func() {
		ns.Shutdown()
		ns.WaitForShutdown()
	})
	if !ns.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server is not ready")
	}
	b, err := natsbroker.Connect(t.Context(), natsbroker.Config{URL: ns.ClientURL(), User: "u", Password: "p"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close(context.Background()) })
	if err := b.EnsureTopic(t.Context(), broker.TopicSpec{Name: "other"}); err != nil {
		t.Fatal(err)
	}
	for round := range 2 {
		began := time.Now()
		results := make(chan error, 100)
		var ms []*broker.Message
		for i := range 100 {
			topic := "silent"
			if i == 99 {
				topic = "other"
			}
			ms = append(ms, &broker.Message{ID: fmt.Sprint(round, i), Topic: topic})
		}
		b.Publish(t.Context(), ms, func(i int, _ broker.Position, err error) {
			if (err == nil) != (i == 99) {
				err = fmt.Errorf("message %d to %s: %w", i, ms[i].Topic, err)
			} else {
				err = nil
			}
			results <- err
		})
		limit := 4 * time.Second // it waits once, for all of them
		if round == 1 {
			limit = time.Second // and not again
		}
		if took := time.Since(began); took > limit {
			t.Errorf("round %d: Publish took %v", round, took)
		}
		for range ms {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
	}
}

// What can never be carried says so, so that a relay does not try for ever.
func TestPublishImpossibleNames(t *testing.T) {
	t.Parallel()
	f := startServer(t)
	b := f.connect(t, f.config())
	if err := b.EnsureTopic(t.Context(), broker.TopicSpec{Name: "t"}); err != nil {
		t.Fatal(err)
	}
	ms := []*broker.Message{
		{ID: "1", Topic: "t", Headers: map[string]string{"X-Request-Id": "1"}},
		{ID: "2", Topic: "a..b"},
		{ID: "3", Topic: "t"},
	}
	results := make(chan error, len(ms))
	b.Publish(t.Context(), ms, func(i int, _ broker.Position, err error) {
		if errors.Is(err, broker.ErrInvalid) == (i == 2) {
			results <- fmt.Errorf("message %d: %w", i, err)
			return
		}
		results <- nil
	})
	for range ms {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

// After the broker was wiped a reader may be the first to make a retained topic's stream, and does not know that it is one.
func TestRetainedTopicMadeByAReader(t *testing.T) {
	t.Parallel()
	f := startServer(t)
	b := f.connect(t, f.config())
	ctx, stop := context.WithCancel(t.Context())
	got := make(chan struct{}, 1)
	ended := make(chan error, 1)
	go func() {
		src := broker.Source{Subscription: broker.SubscriptionSpec{UID: "u", Topic: "r", Since: 1}}
		ended <- b.Consume(ctx, src, func(context.Context, []broker.Delivery) error {
			got <- struct{}{}
			return nil
		})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	for deadline := time.Now().Add(10 * time.Second); ; {
		ps, err := b.Positions(t.Context(), "r", []string{"u"})
		if err == nil && ps.Floor["u"] != nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the reader made nothing: %v", err)
		}
	}
	if err := b.EnsureTopic(t.Context(), broker.TopicSpec{Name: "r", Retained: true}); err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(f.config().URL, nats.UserInfo(f.config().User, f.config().Password))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "twostep-t-r")
	if err != nil {
		t.Fatal(err)
	}
	if cfg := stream.CachedInfo().Config; cfg.Discard != jetstream.DiscardNew || cfg.MaxAge == 0 {
		t.Errorf("discard %v, at most %v old: a full stream drops what it has acknowledged", cfg.Discard, cfg.MaxAge)
	}
	// And the reader goes on.
	b.Publish(t.Context(), []*broker.Message{{ID: "1", Topic: "r"}}, func(_ int, _ broker.Position, err error) {
		if err != nil {
			t.Error(err)
		}
	})
	select {
	case <-got:
	case <-time.After(10 * time.Second):
		t.Error("the reader got nothing")
	}
}
