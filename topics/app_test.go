package topics_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/twostep-mq/twostep/adapters/sqlite"
	"github.com/twostep-mq/twostep/broker"
	natsbroker "github.com/twostep-mq/twostep/broker/nats"
	"github.com/twostep-mq/twostep/broker/nats/embedded"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

type transfer struct {
	To     string `json:"to"`
	Amount int    `json:"amount"`
}

var transIn = topics.New(topics.Config[transfer]{Name: "bank.trans-in", Key: func(t transfer) string { return t.To }})

// city is a broker with a registry's owner, both real.
type city struct {
	t      *testing.T
	server *embedded.Server
	owner  *topics.Owner
}

func newCity(t *testing.T) *city {
	t.Helper()
	server, err := embedded.Start(t.Context(), embedded.Config{StoreDir: filepath.Join(t.TempDir(), "broker")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Shutdown(context.WithoutCancel(t.Context())) })
	return &city{t: t, server: server}
}

func (c *city) connect() *natsbroker.Broker {
	c.t.Helper()
	b, err := c.server.Connect(c.t.Context(), natsbroker.Config{})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = b.Close(context.WithoutCancel(c.t.Context())) })
	return b
}

// own starts the owner of the registry.
func (c *city) own() {
	c.t.Helper()
	db, err := sqlite.Open(filepath.Join(c.t.TempDir(), "server.db"))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = db.Close() })
	if err := sqlite.Migrate(c.t.Context(), db, sqlite.Orchestrator); err != nil {
		c.t.Fatal(err)
	}
	store, err := sqlite.NewRegistry(c.t.Context(), db)
	if err != nil {
		c.t.Fatal(err)
	}
	c.owner = topics.NewOwner(store, c.connect(), topics.OwnerConfig{})
	c.run(c.owner.Run)
	c.until("the owner has read the state", c.owner.Running)
}

// run runs a service until the test ends.
func (c *city) run(fn func(context.Context) error) (stop func()) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	done := make(chan error, 1)
	go func() { done <- fn(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				c.t.Errorf("a service ended: %v", err)
			}
		case <-time.After(20 * time.Second):
			c.t.Error("a service does not end")
		}
	})
	c.t.Cleanup(stop)
	return stop
}

func (c *city) until(what string, ok func() bool) {
	c.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			c.t.Fatalf("never: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (c *city) ready(app *topics.App) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
	defer cancel()
	if err := app.Ready(ctx); err != nil {
		c.t.Fatal(err)
	}
}

// publish puts messages into the topic as a relay does.
func (c *city) publish(b broker.Messages, ms ...*broker.Message) {
	c.t.Helper()
	var acks sync.WaitGroup
	acks.Add(len(ms))
	b.Publish(c.t.Context(), ms, func(i int, _ broker.Position, err error) {
		if err != nil {
			c.t.Errorf("publish %s: %v", ms[i].ID, err)
		}
		acks.Done()
	})
	acks.Wait()
}

func transferMessage(seq int64, to string, amount int) *broker.Message {
	m := transIn.Message(transfer{To: to, Amount: amount})
	return &broker.Message{ID: uuid.NewString(), Topic: m.Topic, Key: m.Key, ContentType: m.ContentType, Payload: m.Payload, Outbox: outboxA, Seq: seq, Time: time.Now(), Attempt: 1}
}

func credit(ctx context.Context, tx outbox.Tx, m topics.Received[transfer]) error {
	if m.Data.Amount < 0 {
		return topics.Dead(errors.New("negative amount"))
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO effect (id, "key", attempt, subscription) VALUES (?, ?, ?, ?)`, m.ID, m.Key, m.Attempt, m.IdempotencyKey())
	return err
}

func count(t testing.TB, db *sql.DB, query string) (n int) {
	t.Helper()
	if err := db.QueryRowContext(t.Context(), query).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// The whole way of a consumer: it declares, reads the topic and its inbox, executes, parks, answers receipts and requests, and is
// removed.
func TestAppFromDeclarationToRemoval(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	c.own()
	db, store := openConsumer(t)
	app := topics.NewApp(c.connect(), store, topics.AppConfig{Name: "bank-b"})
	transIn.HandleShared(app, "accounts", credit)
	c.run(app.Run)
	c.ready(app)

	info, err := c.owner.Topic("bank.trans-in")
	if err != nil || len(info.Subscriptions) != 1 || !info.Keyed {
		t.Fatalf("registry: %+v, %v", info, err)
	}
	uid := info.Subscriptions[0].UID
	b := c.connect()
	got := make(chan outbox.Receipt, 100)
	if err := b.EnsureInbox(t.Context(), outbox.Inbox(outboxA)); err != nil {
		t.Fatal(err)
	}
	c.run(func(ctx context.Context) error {
		return b.Consume(ctx, broker.Source{Inbox: outbox.Inbox(outboxA)}, func(_ context.Context, batch []broker.Delivery) error {
			for _, d := range batch {
				r, err := outbox.DecodeReceipt(d.Payload)
				if err != nil {
					t.Errorf("receipt: %v", err)
				}
				got <- r
			}
			return nil
		})
	})

	var ms []*broker.Message
	for i := range 100 {
		ms = append(ms, transferMessage(int64(i+1), fmt.Sprint("acc-", i%7), 10))
	}
	ms[40].Payload = []byte("{not json")
	c.publish(b, ms...)
	again := *ms[3]
	again.Attempt = 2
	if _, err := b.Send(t.Context(), outbox.SubscriptionInbox(uid), []*broker.Message{&again}); err != nil {
		t.Fatal(err)
	}
	words := 0
	c.until("101 words in receipts", func() bool {
		select {
		case r := <-got:
			words += len(r.Entries)
		default:
		}
		return words >= 101
	})
	// acc-5 is held behind the message that does not decode.
	if n := count(t, db, `SELECT count(DISTINCT id) FROM effect`); n != count(t, db, `SELECT count(*) FROM effect`) || n < 85 || n > 99 {
		t.Errorf("%d effects", n)
	}
	ask := func(q topics.ParkedRequest) (r topics.ParkedReply) {
		t.Helper()
		body, err := json.Marshal(q)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := b.Request(t.Context(), outbox.SubscriptionInbox(uid), body)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(answer, &r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	dead := ask(topics.ParkedRequest{Op: topics.ParkedList, State: topics.ParkedDead})
	if len(dead.Parked) != 1 || !strings.Contains(dead.Parked[0].Reason, "does not decode") || dead.Parked[0].ID != ms[40].ID {
		t.Fatalf("dead letters: %+v", dead)
	}
	if r := ask(topics.ParkedRequest{Op: topics.ParkedDrop, ID: ms[40].ID}); r.Error != "" {
		t.Fatalf("drop: %+v", r)
	}
	c.until("99 effects once the dead letter is dropped", func() bool { return count(t, db, `SELECT count(*) FROM effect`) == 99 })

	if _, err := c.owner.Unsubscribe(t.Context(), "bank.trans-in", "accounts"); err != nil {
		t.Fatal(err)
	}
	c.until("nobody answers for a removed subscription", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		_, err := b.Request(ctx, outbox.SubscriptionInbox(uid), []byte(`{"op":"list"}`))
		return err != nil
	})
	// Made again by hand, the running handler serves it, under a new uid.
	s, err := c.owner.Subscribe(t.Context(), "bank.trans-in", "accounts")
	if err != nil {
		t.Fatal(err)
	}
	c.publish(b, transferMessage(200, "acc-1", 5))
	c.until("100 effects", func() bool { return count(t, db, `SELECT count(*) FROM effect`) == 100 })
	if n := count(t, db, fmt.Sprintf(`SELECT count(*) FROM twostep_barrier WHERE branch_id = '%s'`, s.UID)); n != 1 {
		t.Errorf("%d barrier rows of the new subscription, want 1", n)
	}
}

// A service that starts before the server waits for it; a restarted one finds its registry without the server.
func TestAppWaitsForTheOwnerAndRestartsWithoutIt(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	db, store := openConsumer(t)
	start := func() (*topics.App, func()) {
		app := topics.NewApp(c.connect(), store, topics.AppConfig{})
		transIn.Handle(app, "accounts", credit)
		return app, c.run(app.Run)
	}
	app, stop := start()
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := app.Ready(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("ready without an owner: %v", err)
	}
	ownerStopped := func() func() {
		db, err := sqlite.Open(filepath.Join(t.TempDir(), "server.db"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		if err := sqlite.Migrate(t.Context(), db, sqlite.Orchestrator); err != nil {
			t.Fatal(err)
		}
		reg, err := sqlite.NewRegistry(t.Context(), db)
		if err != nil {
			t.Fatal(err)
		}
		return c.run(topics.NewOwner(reg, c.connect(), topics.OwnerConfig{}).Run)
	}()
	c.ready(app)
	stop()
	ownerStopped()
	b := c.connect()
	c.publish(b, transferMessage(1, "x", 1))
	app, _ = start()
	c.ready(app)
	c.until("the message published meanwhile is executed", func() bool { return count(t, db, `SELECT count(*) FROM effect`) == 1 })
}

func TestAppDeclareOff(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	c.own()
	_, store := openConsumer(t)
	run := func() error {
		app := topics.NewApp(c.connect(), store, topics.AppConfig{Declare: topics.DeclareOff})
		transIn.Handle(app, "accounts", credit)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		go func() {
			if app.Ready(ctx) == nil {
				cancel()
			}
		}()
		return app.Run(ctx)
	}
	golden := func(err error, is error, want string) {
		t.Helper()
		if !errors.Is(err, is) || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
	golden(run(), topics.ErrUnknownTopic, `topics: unknown topic "bank.trans-in": declare is off, so make it first: twostep topics create bank.trans-in`)
	if _, err := c.owner.CreateTopic(t.Context(), "bank.trans-in", transIn.Settings()); err != nil {
		t.Fatal(err)
	}
	golden(run(), topics.ErrUnknownSubscription, `topics: unknown subscription "accounts" of topic "bank.trans-in": declare is off, so make it first: twostep topics subscribe bank.trans-in accounts`)
	if _, err := c.owner.Subscribe(t.Context(), "bank.trans-in", "accounts"); err != nil {
		t.Fatal(err)
	}
	if err := run(); err != nil {
		t.Errorf("with everything made: %v", err)
	}
}

// At the end of Run's context the running handler may finish, and what it did is committed.
func TestAppDrains(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	c.own()
	db, store := openConsumer(t)
	app := topics.NewApp(c.connect(), store, topics.AppConfig{})
	started, finish := make(chan struct{}), make(chan struct{})
	transIn.Handle(app, "accounts", func(ctx context.Context, tx outbox.Tx, m topics.Received[transfer]) error {
		close(started)
		select {
		case <-finish:
		case <-ctx.Done():
			return ctx.Err()
		}
		return credit(ctx, tx, m)
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- app.Run(ctx) }()
	c.ready(app)
	c.publish(c.connect(), transferMessage(1, "x", 1))
	<-started
	cancel()
	close(finish)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := count(t, db, `SELECT count(*) FROM effect`); n != 1 {
		t.Errorf("%d effects, want 1", n)
	}
}

// A handler that does not end is given up after DrainTimeout, and its message is executed later.
func TestAppGivesUpHandlersThatDoNotEnd(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	c.own()
	db, store := openConsumer(t)
	app := topics.NewApp(c.connect(), store, topics.AppConfig{DrainTimeout: 50 * time.Millisecond})
	started := make(chan struct{})
	transIn.Handle(app, "accounts", func(ctx context.Context, _ outbox.Tx, _ topics.Received[transfer]) error {
		close(started)
		<-ctx.Done()
		return ctx.Err()
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- app.Run(ctx) }()
	c.ready(app)
	c.publish(c.connect(), transferMessage(1, "x", 1))
	<-started
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := count(t, db, `SELECT count(*) FROM twostep_parked`); n != 0 {
		t.Errorf("%d parked, want none: a shutdown is nobody's failure", n)
	}
	app = topics.NewApp(c.connect(), store, topics.AppConfig{})
	transIn.Handle(app, "accounts", credit)
	c.run(app.Run)
	c.until("it is executed", func() bool { return count(t, db, `SELECT count(*) FROM effect`) == 1 })
}

func TestAppRefusesWrongHandlers(t *testing.T) {
	t.Parallel()
	var logged bytes.Buffer
	app := topics.NewApp(nil, nil, topics.AppConfig{Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	transIn.Handle(app, "", credit)
	transIn.Handle(app, "a.b", credit)
	transIn.Handle(app, "nil", nil)
	transIn.Handle(app, "twice", credit)
	transIn.Handle(app, "twice", credit)
	transIn.Handle(app, "policy", credit, topics.WithOnDead("explode"))
	topics.New(topics.Config[transfer]{Name: "a b"}).Handle(app, "s", credit)
	topics.New(topics.Config[transfer]{Name: "x", Delivery: "maybe"}).Declare(app)
	err := app.Run(t.Context())
	for _, want := range []string{`subscription ""`, `subscription "a.b"`, "nil: the handler is nil", "twice has two handlers", `on_dead "explode"`, `topic "a b"`, `delivery "maybe"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %s: %v", want, err)
		}
	}
	if err := app.Ready(t.Context()); err == nil {
		t.Error("ready, though Run refused")
	}
}

func TestMessageOfATopic(t *testing.T) {
	t.Parallel()
	m := transIn.Message(transfer{To: "acc", Amount: 3})
	if m.Topic != "bank.trans-in" || m.Key != "acc" || m.ContentType != "application/json" || string(m.Payload) != `{"to":"acc","amount":3}` || m.Err != nil {
		t.Errorf("message %+v", m)
	}
	if m := topics.New(topics.Config[func()]{Name: "x"}).Message(func() {}); m.Err == nil {
		t.Error("a function was encoded")
	}
}
