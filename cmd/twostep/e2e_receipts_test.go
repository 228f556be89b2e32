package main

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/cmd/bank/ledger"
	"github.com/twostep-mq/twostep/cmd/internal/database"
	"github.com/twostep-mq/twostep/configs"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

// TestReceiptsTravelOverTheBroker has everything in one process: server, sender, relay and handler. Receipts go over the broker
// all the same, and nothing else releases a row.
func TestReceiptsTravelOverTheBroker(t *testing.T) {
	t.Parallel()
	const transfers = 50
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	dir := t.TempDir()
	cfg := configs.Defaults()
	cfg.Data, cfg.HTTP.Listen, cfg.Broker.Listen = filepath.Join(dir, "server"), "127.0.0.1:0", "127.0.0.1:0"
	server, err := startServer(ctx, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close(context.Background()) }()

	plan := ledger.Plan{Seed: 3, Transfers: transfers, Accounts: 20}
	opened, err := database.Open(ctx, database.Config{Kind: database.SQLite, DSN: filepath.Join(dir, "bank.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = opened.Close() }()
	db := ledger.New(opened)
	opening := plan.Sending()
	for id, balance := range plan.Receiving() {
		opening[id] = balance
	}
	if err := db.Migrate(ctx, database.Service); err != nil {
		t.Fatal(err)
	}
	if err := db.SetUp(ctx, opening); err != nil {
		t.Fatal(err)
	}
	store, err := db.Outbox(ctx)
	if err != nil {
		t.Fatal(err)
	}
	consumer, err := db.Consumer(ctx)
	if err != nil {
		t.Fatal(err)
	}

	// The handler's side loses its receipts until they are let through.
	lossy := &receiptGate{Broker: server.Broker()}
	app := topics.NewApp(lossy, consumer, topics.AppConfig{})
	var credited atomic.Int64
	ledger.TransIn.HandleShared(app, "accounts", func(ctx context.Context, tx outbox.Tx, m topics.Received[ledger.Transfer]) error {
		credited.Add(1)
		return db.Credit(ctx, tx, m.Data)
	})
	relay := outbox.NewRelay(store, server.Broker(), outbox.RelayConfig{Name: "bank", Positions: 100 * time.Millisecond})
	var services errgroup.Group
	services.Go(func() error { return app.Run(ctx) })
	services.Go(func() error { return relay.Run(ctx) })
	defer func() {
		stop()
		if err := services.Wait(); err != nil {
			t.Errorf("services: %v", err)
		}
	}()
	if err := app.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	box, err := outbox.New(ctx, store, outbox.Config{Doorbell: relay})
	if err != nil {
		t.Fatal(err)
	}
	committed := 0
	for i := range transfers {
		err := box.Transact(ctx, func(tx outbox.Tx) error {
			tr := plan.Transfer(i)
			if err := db.Debit(ctx, tx, tr); err != nil {
				return err
			}
			_, err := box.Publish(ctx, tx, ledger.TransIn.Message(tr))
			return err
		})
		if err == nil {
			committed++
		}
	}
	eventually(t, e2eLimit, func() (bool, string) {
		return credited.Load() >= int64(committed) && lossy.lost.Load() > 0, fmt.Sprintf("%d of %d executed, %d receipts lost", credited.Load(), committed, lossy.lost.Load())
	})
	// Everything is executed and settled on the broker, and the relay looks every 100 ms where the subscription is. It may send
	// again, but without a receipt it may release nothing.
	deadline := time.Now().Add(500 * time.Millisecond)
	for time.Now().Before(deadline) {
		if n := unreleased(t, db); n != committed {
			t.Fatalf("%d of %d rows are left without a single receipt", n, committed)
		}
	}
	lossy.open.Store(true)
	awaitEmptyOutbox(t, db)
	if n := stored(t, server, "twostep-receipt"); n == 0 {
		t.Error("the outbox was released, but no receipt was ever on the broker")
	}
	if n := credited.Load(); n != int64(committed) {
		t.Errorf("%d executions of %d transfers", n, committed)
	}
}

// receiptGate loses what is sent to outboxes until it is open.
type receiptGate struct {
	broker.Broker
	open atomic.Bool
	lost atomic.Int64
}

func (g *receiptGate) Send(ctx context.Context, inbox string, ms []*broker.Message) (int, error) {
	if strings.HasPrefix(inbox, "outbox.") && !g.open.Load() {
		g.lost.Add(int64(len(ms)))
		return len(ms), nil
	}
	return g.Broker.Send(ctx, inbox, ms)
}

// stored is how many messages a stream of the server's broker has ever held, asked over a connection of another kind than ours.
func stored(t *testing.T, s *server, stream string) uint64 {
	t.Helper()
	credential := s.embedded.Credential()
	nc, err := nats.Connect(s.BrokerURL(), nats.UserInfo(credential.User, credential.Password))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	st, err := js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	return st.CachedInfo().State.LastSeq
}
