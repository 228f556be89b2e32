package topics_test

import (
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/twostep-mq/twostep/adapters/sqlite"
	natsbroker "github.com/twostep-mq/twostep/broker/nats"
	"github.com/twostep-mq/twostep/broker/nats/embedded"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

// town is what the examples stand on: bank A with an outbox and its relay, bank B with accounts, a broker and the owner of the
// registry (what twostep serve runs). In life these are processes of their own.
type town struct {
	ctx      context.Context // of the services
	server   *embedded.Server
	a, b     *sql.DB
	outbox   *sqlite.Outbox
	box      *outbox.Outbox
	consumer *sqlite.Consumer
	closers  []func() // from the last to the first
}

func newTown(ctx context.Context) *town {
	folder, err := os.MkdirTemp("", "town-")
	must(err)
	t := &town{}
	t.onClose(func() { must(os.RemoveAll(folder)) })
	t.server, err = embedded.Start(ctx, embedded.Config{StoreDir: filepath.Join(folder, "broker")})
	must(err)
	t.onClose(func() { must(t.server.Shutdown(ctx)) })
	var stop func()
	t.ctx, stop = context.WithCancel(ctx)

	registry := t.open(filepath.Join(folder, "server.db"), sqlite.Orchestrator)
	registryStore, err := sqlite.NewRegistry(ctx, registry)
	must(err)
	t.a = t.open(filepath.Join(folder, "a.db"), sqlite.Service)
	t.b = t.open(filepath.Join(folder, "b.db"), sqlite.Service)
	_, err = t.b.ExecContext(ctx, `CREATE TABLE account (name TEXT PRIMARY KEY, balance INTEGER); INSERT INTO account VALUES ('bert', 0)`)
	must(err)
	t.outbox, err = sqlite.NewOutbox(ctx, t.a)
	must(err)
	t.consumer, err = sqlite.NewConsumer(ctx, t.b)
	must(err)

	relay := outbox.NewRelay(t.outbox, t.connect("bank-a"), outbox.RelayConfig{Name: "bank-a"})
	t.box, err = outbox.New(ctx, t.outbox, outbox.Config{Doorbell: relay})
	must(err)
	t.run(relay.Run)
	t.run(topics.NewOwner(registryStore, t.connect("server"), topics.OwnerConfig{}).Run)
	t.onClose(stop) // the first to run: everything else then ends
	return t
}

func (t *town) open(path string, set sqlite.Set) *sql.DB {
	db, err := sqlite.Open(path)
	must(err)
	t.onClose(func() { must(db.Close()) })
	must(sqlite.Migrate(context.Background(), db, set))
	return db
}

func (t *town) connect(name string) *natsbroker.Broker {
	b, err := t.server.Connect(context.Background(), natsbroker.Config{Name: name})
	must(err)
	t.onClose(func() { must(b.Close(context.Background())) })
	return b
}

// run runs a service until close.
func (t *town) run(service func(context.Context) error) {
	ctx, stop := context.WithCancel(t.ctx)
	done := make(chan error, 1)
	go func() { done <- service(ctx) }()
	t.onClose(func() {
		stop()
		must(<-done)
	})
}

// waitReleased waits until nothing is left in bank A's outbox.
func (t *town) waitReleased(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for left := 1; left > 0; <-tick.C {
		must(t.a.QueryRowContext(ctx, `SELECT count(*) FROM twostep_outbox`).Scan(&left))
	}
}

func (t *town) onClose(fn func()) { t.closers = append(t.closers, fn) }

func (t *town) close() {
	for _, fn := range slices.Backward(t.closers) {
		fn()
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
