package pubsubtest

import (
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"

	"github.com/twostep-mq/twostep/adapters/sqlite"
	"github.com/twostep-mq/twostep/adapters/watermill"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

// TestPubSubThroughOutbox is the suite through an outbox and the barrier: each message comes once.
func TestPubSubThroughOutbox(t *testing.T) {
	t.Parallel()
	for name, start := range brokers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServices(t, start(t))
			f := features()
			f.ExactlyOnceDelivery, f.GuaranteedOrder = true, false
			f.ForceShort = os.Getenv("TWOSTEP_LONG") == "" // 15,000 messages, a commit each
			one := func(t *testing.T) (message.Publisher, message.Subscriber) { return s.pubSub(t, group) }
			tests.TestPubSub(t, f, one, s.pubSub)
			// What the suite leaves out where messages come once.
			f.ExactlyOnceDelivery = false
			for name, test := range map[string]func(*testing.T, tests.TestContext, tests.PubSubConstructor){
				"TestContinueAfterSubscribeClose": tests.TestContinueAfterSubscribeClose, "TestConcurrentClose": tests.TestConcurrentClose,
			} {
				t.Run("AtLeastOnce/"+name, func(t *testing.T) {
					t.Parallel()
					test(t, tests.TestContext{TestID: tests.NewTestID(), Features: f}, one)
				})
			}
		})
	}
}

// services are a sender with an outbox, its relay and the registry's owner, and a receiver's database.
type services struct {
	fx    fixture
	box   *outbox.Outbox
	store *sqlite.Consumer
}

func startServices(t *testing.T, fx fixture) *services {
	t.Helper()
	s := &services{fx: fx}
	registry, err := sqlite.NewRegistry(t.Context(), open(t, sqlite.Orchestrator))
	if err != nil {
		t.Fatal(err)
	}
	store, err := sqlite.NewOutbox(t.Context(), open(t, sqlite.Service))
	if err != nil {
		t.Fatal(err)
	}
	if s.store, err = sqlite.NewConsumer(t.Context(), open(t, sqlite.Service)); err != nil {
		t.Fatal(err)
	}
	relay := outbox.NewRelay(store, fx.connect(t), outbox.RelayConfig{Name: "sender"})
	if s.box, err = outbox.New(t.Context(), store, outbox.Config{Doorbell: relay}); err != nil {
		t.Fatal(err)
	}
	background(t, topics.NewOwner(registry, fx.connect(t), topics.OwnerConfig{}).Run)
	background(t, relay.Run)
	return s
}

func open(t *testing.T, set sqlite.Set) *sql.DB {
	t.Helper()
	db, err := sqlite.Open(filepath.Join(t.TempDir(), "service.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if err := sqlite.Migrate(t.Context(), db, set); err != nil {
		t.Fatal(err)
	}
	return db
}

// background runs a service until the test ends.
func background(t *testing.T, run func(context.Context) error) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func (s *services) pubSub(t *testing.T, group string) (message.Publisher, message.Subscriber) {
	quickly := func(int) time.Duration { return time.Millisecond }
	return watermill.NewOutboxPublisher(s.box), watermill.NewBarrierSubscriber(s.fx.connect(t), s.store, watermill.BarrierConfig{
		Group: group, Options: []topics.HandleOption{topics.WithBackoff(quickly), topics.WithMaxAttempts(1000)},
	})
}
