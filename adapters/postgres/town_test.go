package postgres_test

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/RoaringBitmap/roaring/v2/roaring64"
	"github.com/jackc/pgx/v5"

	"github.com/twostep-mq/twostep/adapters/postgres"
	natsbroker "github.com/twostep-mq/twostep/broker/nats"
	"github.com/twostep-mq/twostep/broker/nats/embedded"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

// change is a message: add one to an account.
type change struct {
	ID      int `json:"id"`
	Account int `json:"account"`
}

// town is all of twostep around one database: outbox, relay, an embedded broker, the owner of the registry, and services.
type town struct {
	t      *testing.T
	server *embedded.Server
	db     *sql.DB
	cfg    *pgx.ConnConfig
	store  *postgres.Outbox
	box    *outbox.Outbox
}

// newTown starts it in a schema of its own; seen is the relay's view of the outbox: nil for the store itself.
func newTown(t *testing.T, seen func(outbox.RelayStore) outbox.RelayStore) *town {
	t.Helper()
	db, cfg := open(t, extended)
	return newTownIn(t, db, cfg, seen, nil)
}

// newTownIn starts it in a database that was migrated.
func newTownIn(t *testing.T, db *sql.DB, cfg *pgx.ConnConfig, seen func(outbox.RelayStore) outbox.RelayStore, log *slog.Logger) *town {
	t.Helper()
	ctx := t.Context()
	w := &town{t: t, db: db, cfg: cfg}
	w.db.SetMaxOpenConns(40)
	w.db.SetMaxIdleConns(40)
	// effect has no key: a second effect of a message is a second row.
	_, err := w.db.ExecContext(ctx, `CREATE TABLE account (n int PRIMARY KEY, balance bigint NOT NULL); INSERT INTO account SELECT n, 0 FROM generate_series(0, 999) n;
CREATE TABLE effect (id int NOT NULL)`)
	noError(t, err)
	w.server, err = embedded.Start(ctx, embedded.Config{StoreDir: t.TempDir() + "/broker"})
	noError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		noError(t, w.server.Shutdown(ctx))
	})
	w.store, err = postgres.NewOutbox(ctx, w.db, postgres.Config{})
	noError(t, err)
	registry, err := postgres.NewRegistry(ctx, w.db, postgres.Config{})
	noError(t, err)
	store := outbox.RelayStore(w.store)
	if seen != nil {
		store = seen(w.store)
	}
	relay := outbox.NewRelay(store, w.connect("relay"), outbox.RelayConfig{Logger: log})
	w.box, err = outbox.New(ctx, w.store, outbox.Config{Doorbell: relay})
	noError(t, err)
	w.run(relay.Run)
	w.run(topics.NewOwner(registry, w.connect("owner"), topics.OwnerConfig{}).Run)
	return w
}

func (w *town) connect(name string) *natsbroker.Broker {
	w.t.Helper()
	b, err := w.server.Connect(w.t.Context(), natsbroker.Config{Name: name})
	noError(w.t, err)
	w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		noError(w.t, b.Close(ctx))
	})
	return b
}

// run runs a service until the test ends, or until it is stopped.
func (w *town) run(service func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.t.Context()))
	done := make(chan error, 1)
	go func() { done <- service(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	}
	w.t.Cleanup(stop)
	return stop
}

// serve starts a service that handles a topic in shared transactions, with a pool and a connection to the broker of its own.
func (w *town) serve(topic *topics.Topic[change], handle topics.Handler[change]) (stop func()) {
	w.t.Helper()
	ctx := w.t.Context()
	consumer, err := postgres.NewConsumer(ctx, pool(w.t, w.cfg), postgres.Config{})
	noError(w.t, err)
	app := topics.NewApp(w.connect("service"), consumer, topics.AppConfig{})
	topic.HandleShared(app, "accounts", handle)
	stop = w.run(app.Run)
	ready, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	noError(w.t, app.Ready(ready))
	return stop
}

// noteEffect writes one row for each execution.
func noteEffect(ctx context.Context, tx outbox.Tx, m topics.Received[change]) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO effect VALUES ($1)`, m.Data.ID)
	return err
}

func (w *town) count(query string, args ...any) (n int) {
	w.t.Helper()
	noError(w.t, w.db.QueryRowContext(w.t.Context(), query, args...).Scan(&n))
	return n
}

// allPublished reads the relay's checkpoint: the broker has acknowledged every row there is.
func (w *town) allPublished() bool {
	w.t.Helper()
	ctx := w.t.Context()
	var bitmap []byte
	err := w.db.QueryRowContext(ctx, `SELECT bitmap FROM twostep_outbox_confirmer WHERE confirmer = $1`, outbox.BrokerConfirmer).Scan(&bitmap)
	if errors.Is(err, sql.ErrNoRows) {
		return false
	}
	noError(w.t, err)
	acknowledged := roaring64.New()
	noError(w.t, acknowledged.UnmarshalBinary(bitmap))
	rows, err := w.db.QueryContext(ctx, `SELECT seq FROM twostep_outbox`)
	noError(w.t, err)
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var seq uint64
		noError(w.t, rows.Scan(&seq))
		if !acknowledged.Contains(seq) {
			return false
		}
	}
	noError(w.t, rows.Err())
	return true
}

const countEffects = `SELECT count(*) FROM effect`

// waitUntil polls, less often than waitFor: each look is a query.
func waitUntil(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(2 * patience); !done(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, 2*patience)
		}
	}
}
