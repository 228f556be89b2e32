package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/twostep-mq/twostep/adapters/api"
	"github.com/twostep-mq/twostep/adapters/sqlite"
	"github.com/twostep-mq/twostep/cmd/bank/link"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

// order is what the service of these tests sends to itself.
type order struct{ Customer, Verdict string }

// liveService is a service with an outbox, a relay and, once consume was called, a subscription, connected as another process would be.
type liveService struct {
	box    *outbox.Outbox
	orders *topics.Topic[order]
	// executed gets the verdict of each order that was executed.
	executed chan string
	// lenient: orders to refuse are executed, too.
	lenient atomic.Bool
	app     *topics.App
	group   *errgroup.Group
	ctx     context.Context //nolint:containedctx // it is the life of the service, which the test ends
}

func startLiveService(t *testing.T, s *server) *liveService {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	group, groupContext := errgroup.WithContext(ctx)
	live := &liveService{group: group, ctx: groupContext, executed: make(chan string, 100),
		orders: topics.New(topics.Config[order]{Name: "shop.orders", Key: func(o order) string { return o.Customer }})}

	b, err := link.Address{URL: s.BrokerURL(), CredentialFile: s.CredentialFile()}.Connect(ctx, "live", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	db, err := sqlite.Open(filepath.Join(t.TempDir(), "shop.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		err := errors.Join(group.Wait(), b.Close(context.Background()), db.Close())
		if err != nil {
			t.Error(err)
		}
	})
	if err := sqlite.Migrate(ctx, db, sqlite.Service); err != nil {
		t.Fatal(err)
	}
	store, err := sqlite.NewOutbox(ctx, db)
	if err != nil {
		t.Fatal(err)
	}
	consumer, err := sqlite.NewConsumer(ctx, db)
	if err != nil {
		t.Fatal(err)
	}
	relay := outbox.NewRelay(store, b, outbox.RelayConfig{Name: "shop", ReportEvery: 50 * time.Millisecond})
	if live.box, err = outbox.New(ctx, store, outbox.Config{Doorbell: relay}); err != nil {
		t.Fatal(err)
	}
	live.app = topics.NewApp(b, consumer, topics.AppConfig{Name: "shop"})
	live.orders.Handle(live.app, "billing", func(_ context.Context, _ outbox.Tx, m topics.Received[order]) error {
		if m.Data.Verdict == "refuse" && !live.lenient.Load() {
			return topics.Dead(errors.New("no such customer"))
		}
		live.executed <- m.Data.Verdict
		return nil
	})
	group.Go(func() error { return relay.Run(groupContext) })
	return live
}

func (l *liveService) consume() { l.group.Go(func() error { return l.app.Run(l.ctx) }) }

func (l *liveService) publish(t *testing.T, gid string, o order) {
	t.Helper()
	m := l.orders.Message(o)
	m.GID = gid
	err := l.box.Transact(t.Context(), func(tx outbox.Tx) error {
		_, err := l.box.Publish(t.Context(), tx, m)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// expect waits for the next execution.
func (l *liveService) expect(t *testing.T, verdict string) {
	t.Helper()
	select {
	case got := <-l.executed:
		if got != verdict {
			t.Errorf("executed %q, want %q", got, verdict)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("%q was not executed", verdict)
	}
}

// await asks the server until the answer is what the test waits for.
func await[T any](t *testing.T, s *server, done func(T) bool, line ...string) T {
	t.Helper()
	var last T
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		out, _, code := command(t, s, append(line, "--json")...)
		var answer T
		if code == exitOK && json.Unmarshal([]byte(out), &answer) == nil {
			if last = answer; done(answer) {
				return answer
			}
		}
		select {
		case <-t.Context().Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
	t.Fatalf("twostep %s: never as expected; last %+v", strings.Join(line, " "), last)
	return last
}

// The command line shows a message on its way: waiting in the outbox, dead at its subscription, replayed, dropped, gone.
func TestCommandsFollowAMessage(t *testing.T) {
	t.Parallel()
	s := startTestServer(t, testConfig(t))
	live := startLiveService(t, s)
	mustRun(t, s, "topics", "create", "shop.orders", "--keyed")
	mustRun(t, s, "topics", "subscribe", "shop.orders", "billing")

	// Nobody executes: the row stays, and everybody can see for whom.
	live.publish(t, "order-1", order{"ada", "refuse"})
	live.publish(t, "order-2", order{"ada", "take"})
	waiting := await(t, s, func(l api.TransactionList) bool {
		return len(l.Transactions) == 2 && l.Transactions[0].State == api.TransactionUnconfirmed && len(l.Transactions[0].WaitingFor) == 1
	}, "transactions", "list")
	if got := waiting.Transactions[0]; got.GID != "order-1" || got.WaitingFor[0] != "shop.orders/billing" || got.Key != "ada" || got.Outbox != live.box.UUID() {
		t.Errorf("got %+v", got)
	}
	if len(waiting.Unreachable) != 1 || waiting.Unreachable[0].Name != "shop.orders/billing" {
		t.Errorf("unreachable: %+v", waiting.Unreachable)
	}
	await(t, s, func(l api.OutboxList) bool {
		return len(l.Outboxes) == 1 && l.Outboxes[0].Name == "shop" && l.Outboxes[0].Backlog == 2 &&
			len(l.Outboxes[0].WaitingFor) == 1 && l.Outboxes[0].WaitingFor[0] == api.Waiting{Confirmer: waiting.Unreachable[0].ID, Subscription: "shop.orders/billing", Rows: 2}
	}, "outbox", "list")
	if _, errs, code := command(t, s, "topics", "delete", "shop.orders"); code != exitConflict || !strings.Contains(errs, live.box.UUID()) {
		t.Errorf("delete with rows in flight: exit code %d: %s", code, errs)
	}

	// Executed: the first is a dead letter, the second held behind it, both released by the outbox.
	live.consume()
	list := await(t, s, func(l api.DeadList) bool { return len(l.Dead) == 2 }, "dead", "list", "--state", "all")
	dead := list.Dead[0]
	if dead.GID != "order-1" || dead.State != "dead" || !strings.Contains(dead.Reason, "no such customer") || list.Dead[1].State != "held" {
		t.Errorf("got %+v", list.Dead)
	}
	await(t, s, func(l api.OutboxList) bool { return len(l.Outboxes) == 1 && l.Outboxes[0].Backlog == 0 }, "outbox", "list")
	await(t, s, func(l api.TransactionList) bool {
		return len(l.Transactions) == 1 && l.Transactions[0].State == api.TransactionParked && len(l.Transactions[0].Parked) == 1
	}, "transactions", "show", "order-2")
	if out := mustRun(t, s, "dead", "show", "shop.orders/billing", dead.ID); !strings.Contains(out, `"Verdict": "refuse"`) {
		t.Errorf("payload: %s", out)
	}
	if _, errs, code := command(t, s, "dead", "replay", "shop.orders/billing", list.Dead[1].ID); code != exitConflict || !strings.Contains(errs, "held") {
		t.Errorf("replay of a held one: exit code %d: %s", code, errs)
	}

	// Dropped: its successor runs, and nothing is left.
	mustRun(t, s, "dead", "drop", dead.Subscription, dead.ID)
	live.expect(t, "take")
	await(t, s, func(l api.TransactionList) bool { return len(l.Transactions) == 0 }, "transactions", "list")
	if _, _, code := command(t, s, "transactions", "show", "order-1"); code != exitNotFound {
		t.Errorf("show after all is done: exit code %d", code)
	}
	if _, _, code := command(t, s, "dead", "drop", "shop.orders/billing", dead.ID); code != exitNotFound {
		t.Errorf("drop again: exit code %d", code)
	}

	// Replayed: it runs.
	live.publish(t, "order-3", order{"bob", "refuse"})
	again := await(t, s, func(l api.DeadList) bool { return len(l.Dead) == 1 }, "dead", "list")
	live.lenient.Store(true)
	mustRun(t, s, "dead", "replay", "shop.orders/billing", again.Dead[0].ID)
	live.expect(t, "refuse")
	await(t, s, func(l api.DeadList) bool { return len(l.Dead) == 0 }, "dead", "list", "--state", "all")
}
