package watermill_test

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"

	"github.com/twostep-mq/twostep/adapters/sqlite"
	"github.com/twostep-mq/twostep/broker"
	natsbroker "github.com/twostep-mq/twostep/broker/nats"
	"github.com/twostep-mq/twostep/broker/nats/embedded"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

// patience bounds every wait that is to succeed.
const patience = 30 * time.Second

// town is a broker with the owner of the registry, as twostep serve runs them.
type town struct {
	t      *testing.T
	folder string
	server *embedded.Server
	listen string
}

func newTown(t *testing.T) *town {
	t.Helper()
	w := &town{t: t, folder: t.TempDir()}
	w.listen = "127.0.0.1:0"
	w.start()
	w.listen = strings.TrimPrefix(w.server.ClientURL(), "nats://")
	t.Cleanup(w.stop)
	return w
}

func (w *town) start() {
	w.t.Helper()
	var err error
	w.server, err = embedded.Start(context.Background(), embedded.Config{StoreDir: filepath.Join(w.folder, "broker"), Listen: w.listen})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *town) stop() {
	w.t.Helper()
	if err := w.server.Shutdown(context.Background()); err != nil {
		w.t.Error(err)
	}
}

// own runs the owner of the registry on b.
func (w *town) own(b broker.Broker) {
	w.t.Helper()
	store, err := sqlite.NewRegistry(w.t.Context(), w.open("registry", sqlite.Orchestrator))
	if err != nil {
		w.t.Fatal(err)
	}
	w.run(topics.NewOwner(store, b, topics.OwnerConfig{}).Run)
}

func (w *town) connect() broker.Broker {
	w.t.Helper()
	c := w.server.Credential()
	b, err := natsbroker.Connect(w.t.Context(), natsbroker.Config{
		URL: "nats://" + w.listen, User: c.User, Password: c.Password, TopicMaxBytes: 64 << 20,
		AckWait: 2 * time.Second, PinTTL: 500 * time.Millisecond, ReconnectWait: 20 * time.Millisecond,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = b.Close(context.Background()) })
	return b
}

// raw is a connection without twostep.
func (w *town) raw() *nats.Conn {
	w.t.Helper()
	c := w.server.Credential()
	nc, err := nats.Connect(w.server.ClientURL(), nats.UserInfo(c.User, c.Password))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(nc.Close)
	return nc
}

func (w *town) open(name string, set sqlite.Set) *sql.DB {
	w.t.Helper()
	db, err := sqlite.Open(filepath.Join(w.folder, name+".db"))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = db.Close() })
	if err := sqlite.Migrate(w.t.Context(), db, set); err != nil {
		w.t.Fatal(err)
	}
	return db
}

// run runs a service until the test ends.
func (w *town) run(service func(context.Context) error) {
	w.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- service(ctx) }()
	w.t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
}

// service is a database with an outbox, a barrier and a table of effects, and the outbox's relay.
type service struct {
	t     *testing.T
	db    *sql.DB
	box   *outbox.Outbox
	store *sqlite.Consumer
}

func (w *town) service(name string, b broker.Broker, cfg outbox.RelayConfig) *service {
	w.t.Helper()
	s := &service{t: w.t, db: w.open(name, sqlite.Service)}
	if _, err := s.db.ExecContext(w.t.Context(), `CREATE TABLE effect (what TEXT)`); err != nil {
		w.t.Fatal(err)
	}
	store, err := sqlite.NewOutbox(w.t.Context(), s.db)
	if err != nil {
		w.t.Fatal(err)
	}
	cfg.Name = name
	relay := outbox.NewRelay(store, b, cfg)
	if s.box, err = outbox.New(w.t.Context(), store, outbox.Config{Doorbell: relay}); err != nil {
		w.t.Fatal(err)
	}
	if s.store, err = sqlite.NewConsumer(w.t.Context(), s.db); err != nil {
		w.t.Fatal(err)
	}
	w.run(relay.Run)
	return s
}

// note is a handler's effect.
func note(ctx context.Context, tx outbox.Tx, what string) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO effect (what) VALUES (?)`, what)
	return err
}

// effects counts what was done, by what it was.
func (s *service) effects() map[string]int {
	s.t.Helper()
	rows, err := s.db.QueryContext(s.t.Context(), `SELECT what, count(*) FROM effect GROUP BY what`)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	all := map[string]int{}
	for rows.Next() {
		var what string
		var n int
		if err := rows.Scan(&what, &n); err != nil {
			s.t.Fatal(err)
		}
		all[what] = n
	}
	if err := rows.Err(); err != nil {
		s.t.Fatal(err)
	}
	return all
}

func (s *service) count(table string) (n int) {
	s.t.Helper()
	if err := s.db.QueryRowContext(s.t.Context(), `SELECT count(*) FROM `+table).Scan(&n); err != nil {
		s.t.Fatal(err)
	}
	return n
}

// waitReleased waits until nothing is left in the outbox.
func (s *service) waitReleased() {
	s.t.Helper()
	eventually(s.t, func() error {
		if n := s.count("twostep_outbox"); n > 0 {
			return fmt.Errorf("%d rows are not released", n)
		}
		return nil
	})
}

// wantOnce checks that each of the effects is there once, and nothing else.
func (s *service) wantOnce(want ...string) {
	s.t.Helper()
	got := s.effects()
	for _, what := range want {
		if got[what] != 1 {
			s.t.Errorf("%s has %d effects, want 1", what, got[what])
		}
	}
	if len(got) != len(want) {
		s.t.Errorf("%d effects, want %d: %v", len(got), len(want), got)
	}
}

func (s *service) waitEffects(n int) {
	s.t.Helper()
	eventually(s.t, func() error {
		if got := len(s.effects()); got < n {
			return fmt.Errorf("%d of %d effects", got, n)
		}
		return nil
	})
}

// eventually waits until cond returns nil.
func eventually(t *testing.T, cond func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := cond()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %v", patience, err)
		}
		<-tick.C
	}
}

// next waits for a message.
func next(t *testing.T, from <-chan *message.Message) *message.Message {
	t.Helper()
	select {
	case m, ok := <-from:
		if !ok {
			t.Fatal("the channel was closed")
		}
		return m
	case <-time.After(patience):
		t.Fatal("no message came")
	}
	return nil
}

// handle answers every message by fn's result until the channel is closed.
func handle(from <-chan *message.Message, fn func(*message.Message) error) {
	for m := range from {
		if err := fn(m); err != nil {
			m.Nack()
		} else {
			m.Ack()
		}
	}
}

// messages are named n-from to n-to.
func messages(name string, from, to int) (ms []*message.Message, names []string) {
	for n := from; n <= to; n++ {
		what := fmt.Sprintf("%s-%d", name, n)
		names = append(names, what)
		ms = append(ms, message.NewMessage(what, []byte(what)))
	}
	return ms, names
}

// forgetful loses what a broker may lose: the settling of batches, and what is sent to inboxes.
type forgetful struct {
	broker.Broker
	// unsettled, if set, tells whether the settling of a batch is lost.
	unsettled func(src broker.Source, ds []broker.Delivery) bool
	// lost, if set, tells whether what is sent to an inbox is lost.
	lost func(inbox string) bool
}

func (f *forgetful) Consume(ctx context.Context, src broker.Source, handle func(context.Context, []broker.Delivery) error) error {
	return f.Broker.Consume(ctx, src, func(ctx context.Context, ds []broker.Delivery) error {
		err := handle(ctx, ds)
		if err == nil && f.unsettled != nil && f.unsettled(src, ds) {
			return fmt.Errorf("the settling of %d messages was lost", len(ds))
		}
		return err
	})
}

func (f *forgetful) Send(ctx context.Context, inbox string, ms []*broker.Message) (int, error) {
	if f.lost != nil && f.lost(inbox) {
		return len(ms), nil
	}
	return f.Broker.Send(ctx, inbox, ms)
}
