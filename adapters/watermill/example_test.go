package watermill_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/twostep-mq/twostep/adapters/sqlite"
	"github.com/twostep-mq/twostep/adapters/watermill"
	natsbroker "github.com/twostep-mq/twostep/broker/nats"
	"github.com/twostep-mq/twostep/broker/nats/embedded"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

// A Watermill service whose messages are handled once in effect: it publishes in its own transaction, and its handlers work in the
// transaction that comes with the message. Ack commits, Nack rolls back.
func Example() {
	ctx := context.Background()
	shop := openShop(ctx)
	defer shop.close()

	// Receive. A Watermill router takes the subscriber as well.
	sub := watermill.NewBarrierSubscriber(shop.broker, shop.consumer, watermill.BarrierConfig{Group: "billing"})
	orders, err := sub.Subscribe(ctx, "shop.orders")
	must(err)
	billed := make(chan string)
	go func() {
		for m := range orders {
			tx, _ := watermill.Tx(m.Context())
			if _, err := tx.ExecContext(m.Context(), `INSERT INTO invoice (for_order) VALUES (?)`, string(m.Payload)); err != nil {
				m.Nack()
				continue
			}
			m.Ack()
			billed <- m.UUID
		}
	}()

	// Send: the order and its message are committed together.
	tx, err := shop.db.BeginTx(ctx, nil)
	must(err)
	_, err = tx.ExecContext(ctx, `INSERT INTO orders (id) VALUES ('order 17')`)
	must(err)
	must(watermill.PublisherTx(shop.box, tx).Publish("shop.orders", message.NewMessage("17", []byte("order 17"))))
	must(tx.Commit())

	fmt.Println("billed message", <-billed)
	must(sub.Close())
	// Output: billed message 17
}

// Any Watermill pub/sub carries twostep's messages: here its own pub/sub over a broker stands for Kafka's, RabbitMQ's or Redis's.
func ExampleFromWatermill() {
	ctx := context.Background()
	shop := openShop(ctx)
	defer shop.close()

	publisher := watermill.NewPublisher(shop.broker, watermill.PublisherConfig{})
	b := watermill.FromWatermill(publisher, func(group string) (message.Subscriber, error) {
		return watermill.NewSubscriber(shop.broker, watermill.SubscriberConfig{Group: group}), nil
	}, watermill.BrokerConfig{ResendAfter: 5 * time.Minute})

	must(b.PutState(ctx, "greeting", []byte("hello")))
	fmt.Println("told the other processes")
	must(b.Close(ctx))
	// Output: told the other processes
}

// shop is a service with its database, and beside it what twostep serve runs.
type shop struct {
	db       *sql.DB
	box      *outbox.Outbox
	consumer *sqlite.Consumer
	broker   *natsbroker.Broker
	closers  []func()
}

func openShop(ctx context.Context) *shop {
	folder, err := os.MkdirTemp("", "shop-")
	must(err)
	s := &shop{}
	s.onClose(func() { must(os.RemoveAll(folder)) })
	server, err := embedded.Start(ctx, embedded.Config{StoreDir: filepath.Join(folder, "broker")})
	must(err)
	s.onClose(func() { must(server.Shutdown(ctx)) })
	s.broker, err = server.Connect(ctx, natsbroker.Config{})
	must(err)
	s.onClose(func() { must(s.broker.Close(ctx)) })

	s.db = s.open(ctx, filepath.Join(folder, "shop.db"), sqlite.Service)
	_, err = s.db.ExecContext(ctx, `CREATE TABLE orders (id TEXT PRIMARY KEY); CREATE TABLE invoice (for_order TEXT PRIMARY KEY)`)
	must(err)
	store, err := sqlite.NewOutbox(ctx, s.db)
	must(err)
	s.consumer, err = sqlite.NewConsumer(ctx, s.db)
	must(err)
	relay := outbox.NewRelay(store, s.broker, outbox.RelayConfig{Name: "shop"})
	s.box, err = outbox.New(ctx, store, outbox.Config{Doorbell: relay})
	must(err)
	s.run(ctx, relay.Run)

	registry, err := sqlite.NewRegistry(ctx, s.open(ctx, filepath.Join(folder, "server.db"), sqlite.Orchestrator))
	must(err)
	s.run(ctx, topics.NewOwner(registry, s.broker, topics.OwnerConfig{}).Run)
	return s
}

func (s *shop) open(ctx context.Context, path string, set sqlite.Set) *sql.DB {
	db, err := sqlite.Open(path)
	must(err)
	s.onClose(func() { must(db.Close()) })
	must(sqlite.Migrate(ctx, db, set))
	return db
}

func (s *shop) run(ctx context.Context, service func(context.Context) error) {
	ctx, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- service(ctx) }()
	s.onClose(func() {
		stop()
		must(<-done)
	})
}

func (s *shop) onClose(fn func()) { s.closers = append([]func(){fn}, s.closers...) }

func (s *shop) close() {
	for _, fn := range s.closers {
		fn()
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
