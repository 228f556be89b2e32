package outbox_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/outbox"
	outboxmem "github.com/twostep-mq/twostep/outbox/outboxtest/memory"
)

// silent is a broker that answers nothing: each call waits until its context ends.
type silent struct {
	broker.Broker
	published chan struct{} // gets a token when a publish begins
}

func (silent) EnsureInbox(context.Context, string) error { return nil }
func (silent) Ring(context.Context, string) error        { return nil }

func (silent) Listen(context.Context, string, func()) (func(), error) { return func() {}, nil }

func (silent) Answer(context.Context, string, func(context.Context, []byte) []byte) (func(), error) {
	return func() {}, nil
}

func (silent) WatchState(ctx context.Context, _ string, _ func(broker.StateEvent) error) error {
	<-ctx.Done()
	return nil
}

func (silent) Consume(ctx context.Context, _ broker.Source, _ func(context.Context, []broker.Delivery) error) error {
	<-ctx.Done()
	return nil
}

func (silent) PutState(ctx context.Context, _ string, _ []byte) error {
	<-ctx.Done()
	return ctx.Err()
}

func (s silent) Publish(ctx context.Context, ms []*broker.Message, done func(int, broker.Position, error)) {
	s.published <- struct{}{}
	<-ctx.Done()
	for i := range ms {
		done(i, broker.Position{}, ctx.Err())
	}
}

// TestStopDoesNotWaitForTheBroker: a relay is told to stop in the middle of a round that waits for a broker that does not
// answer. It gives its lease away within moments.
func TestStopDoesNotWaitForTheBroker(t *testing.T) {
	t.Parallel()
	store := outboxmem.New(outboxmem.Config{UUID: uuid.NewString()})
	tx := store.Begin()
	if _, err := tx.Insert(&broker.Message{ID: uuid.NewString(), Topic: "pay", Time: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	b := silent{published: make(chan struct{}, 1)}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- outbox.NewRelay(store, b, outbox.RelayConfig{Owner: "r"}).Run(ctx) }()
	select {
	case <-b.published:
	case <-time.After(10 * time.Second):
		t.Fatal("the relay publishes nothing")
	}
	stop()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(3 * time.Second):
		t.Fatal("the relay does not stop")
	}
	if l, err := store.Lease(t.Context()); err != nil || l.Owner != "" {
		t.Errorf("the lease is %q's, %v", l.Owner, err)
	}
}
