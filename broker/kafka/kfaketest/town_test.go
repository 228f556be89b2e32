package kfaketest

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/adapters/sqlite"
	kafkabroker "github.com/twostep-mq/twostep/broker/kafka"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

// step is the nth of its account: an account's steps are executed in this order.
type step struct {
	Account string `json:"account"`
	N       int    `json:"n"`
}

func stepsTopic() *topics.Topic[step] {
	return topics.New(topics.Config[step]{Name: "bank.steps", Key: func(s step) string { return s.Account }})
}

// town is all of twostep on one cluster: a sender with an outbox and its relay, receivers, and the owner of the registry.
type town struct {
	t *testing.T
	f *fixture
	// server, sender and cfg (the receivers') are how each connects.
	server, sender, cfg kafkabroker.Config

	a, b *sql.DB
	box  *outbox.Outbox
	// sent counts the steps of each account.
	sent map[string]int
}

func newTown(t *testing.T, f *fixture, cfg kafkabroker.Config) *town {
	t.Helper()
	tw := &town{t: t, f: f, server: cfg, sender: cfg, cfg: cfg, sent: map[string]int{}}
	tw.begin(t.TempDir())
	return tw
}

// begin opens the databases in the folder and runs the relay and the registry's owner.
func (tw *town) begin(folder string) {
	tw.t.Helper()
	registry := tw.open(filepath.Join(folder, "server.db"), sqlite.Orchestrator)
	tw.a, tw.b = tw.open(filepath.Join(folder, "a.db"), sqlite.Service), tw.open(filepath.Join(folder, "b.db"), sqlite.Service)
	ctx := tw.t.Context()
	_, err := tw.b.ExecContext(ctx, `CREATE TABLE account (name TEXT PRIMARY KEY, n INTEGER NOT NULL, wrong INTEGER NOT NULL DEFAULT 0)`)
	tw.must(err)
	registryStore, err := sqlite.NewRegistry(ctx, registry)
	tw.must(err)
	store, err := sqlite.NewOutbox(ctx, tw.a)
	tw.must(err)
	relay := outbox.NewRelay(store, tw.f.connect(tw.t, tw.sender), outbox.RelayConfig{Name: "a", Positions: 200 * time.Millisecond, PublishTimeout: 6 * time.Second})
	tw.box, err = outbox.New(ctx, store, outbox.Config{Doorbell: relay})
	tw.must(err)
	tw.run(relay.Run)
	tw.run(topics.NewOwner(registryStore, tw.f.connect(tw.t, tw.server), topics.OwnerConfig{}).Run)
}

func (tw *town) must(err error) {
	tw.t.Helper()
	if err != nil {
		tw.t.Fatal(err)
	}
}

func (tw *town) open(path string, set sqlite.Set) *sql.DB {
	tw.t.Helper()
	db, err := sqlite.Open(path)
	tw.must(err)
	tw.t.Cleanup(func() { _ = db.Close() })
	tw.must(sqlite.Migrate(tw.t.Context(), db, set))
	return db
}

// run runs a service until the test ends or stop is called.
func (tw *town) run(service func(context.Context) error) (stop func()) {
	tw.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- service(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			tw.t.Errorf("service: %v", err)
		}
	})
	tw.t.Cleanup(stop)
	return stop
}

// receiver runs a process of the subscription.
func (tw *town) receiver() (stop func()) {
	tw.t.Helper()
	consumer, err := sqlite.NewConsumer(tw.t.Context(), tw.b)
	tw.must(err)
	app := topics.NewApp(tw.f.connect(tw.t, tw.cfg), consumer, topics.AppConfig{Name: "b"})
	stepsTopic().HandleShared(app, "accounts", func(ctx context.Context, tx outbox.Tx, m topics.Received[step]) error {
		// Out of order, or twice, is noted in the same transaction.
		_, err := tx.ExecContext(ctx, `INSERT INTO account (name, n, wrong) VALUES (?, ?, ? <> 1)
			ON CONFLICT (name) DO UPDATE SET wrong = wrong + (n + 1 <> excluded.n), n = excluded.n`, m.Data.Account, m.Data.N, m.Data.N)
		return err
	})
	stop = tw.run(app.Run)
	ctx, cancel := context.WithTimeout(tw.t.Context(), 20*time.Second)
	defer cancel()
	tw.must(app.Ready(ctx))
	return stop
}

// send commits n steps, some accounts' in turn.
func (tw *town) send(n, accounts int) {
	tw.t.Helper()
	topic := stepsTopic()
	for range n {
		account := fmt.Sprint("account-", (tw.total())%accounts)
		tw.sent[account]++
		tw.must(tw.box.Transact(tw.t.Context(), func(tx outbox.Tx) error {
			_, err := tw.box.Publish(tw.t.Context(), tx, topic.Message(step{account, tw.sent[account]}))
			return err
		}))
	}
}

func (tw *town) total() (n int) {
	for _, m := range tw.sent {
		n += m
	}
	return n
}

func (tw *town) left() (n int) {
	tw.t.Helper()
	tw.must(tw.a.QueryRowContext(tw.t.Context(), `SELECT count(*) FROM twostep_outbox`).Scan(&n))
	return n
}

// settled waits until the outbox is empty, and checks that every step was executed once and in order.
func (tw *town) settled() {
	tw.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); tw.left() > 0; <-time.After(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			tw.t.Fatalf("%d of %d rows are not released", tw.left(), tw.total())
		}
	}
	for account, n := range tw.sent {
		var got, wrong int
		tw.must(tw.b.QueryRowContext(tw.t.Context(), `SELECT n, wrong FROM account WHERE name = ?`, account).Scan(&got, &wrong))
		if got != n || wrong > 0 {
			tw.t.Errorf("%s: step %d of %d, %d times out of order", account, got, n, wrong)
		}
	}
}

// Receivers join and leave, partitions are added, leaders move and produce requests time out after they were stored: every step is
// executed once, in order.
func TestOrderEndToEnd(t *testing.T) {
	t.Parallel()
	f := startCluster(t, 3)
	cfg := f.config()
	cfg.Partitions, cfg.SessionTimeout = 2, 3*time.Second
	tw := newTown(t, f, cfg)
	random := rand.New(rand.NewPCG(3, 4))
	receivers := []func(){tw.receiver()}
	for round := range 12 {
		tw.send(100, 7)
		switch round % 4 {
		case 0:
			receivers = append(receivers, tw.receiver())
		case 1:
			f.server().ShufflePartitionLeaders()
			f.server().RehashCoordinators()
		case 2:
			i := random.IntN(len(receivers))
			receivers[i]()
			receivers = append(receivers[:i], receivers[i+1:]...)
			if len(receivers) == 0 {
				receivers = append(receivers, tw.receiver())
			}
		case 3:
			addPartitions(t, f, "twostep.t.bank.steps", 2+round)
			f.timeOutProduces(3)
		}
	}
	tw.settled()
}

// The topic is deleted with more than 500 rows unconfirmed: everything is executed once.
func TestTopicDeletedEndToEnd(t *testing.T) {
	t.Parallel()
	f := startCluster(t, 1)
	tw := newTown(t, f, f.config())
	stop := tw.receiver()
	tw.send(50, 5)
	tw.settled()
	stop()
	tw.send(600, 5)
	b := f.connect(t, f.config())
	eventually(t, func() error { // they are published and not read
		ps, err := b.Positions(t.Context(), "bank.steps", nil)
		if err == nil && ps.Last[0] < 650 {
			err = fmt.Errorf("%d of 650 messages are stored", ps.Last[0])
		}
		return err
	})
	if n := tw.left(); n < 500 {
		t.Fatalf("%d rows are unconfirmed", n)
	}
	if err := b.DeleteTopic(t.Context(), "bank.steps"); err != nil {
		t.Fatal(err)
	}
	tw.receiver()
	tw.send(50, 5)
	tw.settled()
}

// The cluster restarts, and then loses everything, while messages are under way.
func TestRestartAndWipeEndToEnd(t *testing.T) {
	t.Parallel()
	f := startCluster(t, 1)
	tw := newTown(t, f, f.config())
	tw.receiver()
	tw.send(200, 5)
	f.stop()
	tw.send(200, 5) // commits need no broker
	f.start(t)
	tw.send(200, 5)
	f.wipe(t)
	tw.send(200, 5)
	tw.settled()
}
