package mysql_test

import (
	"context"
	"database/sql"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/adapters/mysql"
	natsbroker "github.com/twostep-mq/twostep/broker/nats"
	"github.com/twostep-mq/twostep/broker/nats/embedded"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

// order is a message of these tests.
type order struct {
	Account int `json:"account"`
}

// pipeline is a service with an outbox, a relay, handlers and a registry, all in one database, and JetStream.
type pipeline struct {
	db    *sql.DB
	box   *outbox.Outbox
	store *mysql.Outbox
	topic *topics.Topic[order]

	server *embedded.Server
	ctx    context.Context //nolint:containedctx // the services' life
	parts  sync.WaitGroup
}

// newPipeline starts all but the handlers. wrap may put a double around what the relay reads.
func newPipeline(t *testing.T, db *sql.DB, wrap func(outbox.RelayStore) outbox.RelayStore) *pipeline {
	t.Helper()
	execAll(t, db, "CREATE TABLE effect (id VARCHAR(36) NOT NULL, KEY (id)) ENGINE = InnoDB",
		"CREATE TABLE account (id INT PRIMARY KEY, n INT NOT NULL) ENGINE = InnoDB")
	// The services outlive the test's context, which ends before what it cleans up.
	ctx, stop := context.WithCancel(context.Background())
	p := &pipeline{db: db, store: newOutbox(t, db), topic: topics.New(topics.Config[order]{Name: "t"}), ctx: ctx}
	var err error
	p.server, err = embedded.Start(ctx, embedded.Config{StoreDir: filepath.Join(t.TempDir(), "broker")})
	noError(t, err)
	t.Cleanup(func() {
		stop()
		p.parts.Wait()
		if err := p.server.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	var rows outbox.RelayStore = p.store
	if wrap != nil {
		rows = wrap(rows)
	}
	relay := outbox.NewRelay(rows, p.connect(t, "relay"), outbox.RelayConfig{Name: "orders"})
	p.run(t, relay.Run)
	p.box, err = outbox.New(ctx, p.store, outbox.Config{Doorbell: relay})
	noError(t, err)
	p.run(t, topics.NewOwner(registryOf(t, db), p.connect(t, "server"), topics.OwnerConfig{}).Run)
	return p
}

func (p *pipeline) connect(t *testing.T, name string) *natsbroker.Broker {
	t.Helper()
	b, err := p.server.Connect(p.ctx, natsbroker.Config{Name: name})
	noError(t, err)
	return b
}

func (p *pipeline) run(t *testing.T, service func(context.Context) error) {
	t.Helper()
	p.parts.Go(func() {
		if err := service(p.ctx); err != nil {
			t.Error(err)
		}
	})
}

// handle starts a worker of a subscription; stop ends it sooner than the test.
func (p *pipeline) handle(t *testing.T, subscription string, fn topics.Handler[order]) (stop func()) {
	t.Helper()
	app := topics.NewApp(p.connect(t, subscription), newConsumer(t, p.db), topics.AppConfig{Name: "orders"})
	p.topic.HandleShared(app, subscription, fn, topics.WithBackoff(func(int) time.Duration { return 20 * time.Millisecond }))
	ctx, cancel := context.WithCancel(p.ctx)
	done := make(chan struct{})
	p.run(t, func(context.Context) error {
		defer close(done)
		return app.Run(ctx)
	})
	noError(t, app.Ready(t.Context()))
	return func() {
		cancel()
		<-done
	}
}

// effect is a handler that leaves one row for each execution.
func effect(ctx context.Context, tx outbox.Tx, m topics.Received[order]) error {
	_, err := tx.ExecContext(ctx, "INSERT INTO effect VALUES (?)", m.ID)
	return err
}

// effects counts executions by message.
func (p *pipeline) effects(t *testing.T) map[string]int {
	t.Helper()
	rows, err := p.db.QueryContext(t.Context(), "SELECT id, COUNT(*) FROM effect GROUP BY id")
	noError(t, err)
	defer func() { _ = rows.Close() }()
	all := map[string]int{}
	for rows.Next() {
		var id string
		var times int
		noError(t, rows.Scan(&id, &times))
		all[id] = times
	}
	noError(t, rows.Err())
	return all
}

// waitForEffects waits until so many messages have an effect, or, with it not to be reached, until nothing has come for a while.
func (p *pipeline) waitForEffects(ctx context.Context, t *testing.T, want int) (got int) {
	t.Helper()
	const quiet = 5 * time.Second
	for last := time.Now(); ; {
		n := count(t, p.db, "SELECT COUNT(DISTINCT id) FROM effect")
		if n != got {
			got, last = n, time.Now()
		}
		if got >= want || time.Since(last) > quiet || ctx.Err() != nil {
			return got
		}
		pause(ctx, 20*time.Millisecond)
	}
}

// onlyForward is the planted bug: a relay that pages by seq > last. It takes every gap for one that stays empty.
type onlyForward struct{ outbox.RelayStore }

func (f onlyForward) Probe(ctx context.Context, gaps []outbox.Gap, limit int) (outbox.Page, []outbox.Gap, error) {
	p, _, err := f.RelayStore.Probe(ctx, nil, limit)
	return p, gaps, err
}
