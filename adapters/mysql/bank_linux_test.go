package mysql_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/adapters/mysql"
	natsbroker "github.com/twostep-mq/twostep/broker/nats"
	"github.com/twostep-mq/twostep/broker/nats/embedded"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

// transfer is money on its way from bank A to bank B.
type transfer struct {
	Name   string `json:"name"`
	To     int    `json:"to"`
	Amount int    `json:"amount"`
}

// bank is the whole of it on one MariaDB server: two banks, a registry, an outbox's relay, two kinds of handlers, and JetStream between.
type bank struct {
	a, b  *sql.DB
	box   *outbox.Outbox
	parts sync.WaitGroup
	tries atomic.Int64
}

const bankAccounts = 20

func bankTopic(name string, keyed bool) *topics.Topic[transfer] {
	c := topics.Config[transfer]{Name: name}
	if keyed {
		c.Key = func(t transfer) string { return fmt.Sprint(t.To) }
	}
	return topics.New(c)
}

func newBank(t *testing.T, s *ownServer, singly, shared *topics.Topic[transfer]) *bank {
	t.Helper()
	// The services outlive the test's context, which ends before what it cleans up.
	ctx, stop := context.WithCancel(context.Background())
	k := &bank{}
	server, err := embedded.Start(ctx, embedded.Config{StoreDir: filepath.Join(t.TempDir(), "broker")})
	noError(t, err)
	open := func(name string) *sql.DB {
		dsn := s.dsn.Clone()
		dsn.DBName = name
		execAll(t, openDSN(t, s.dsn.FormatDSN()), "CREATE DATABASE "+name)
		db := openDSN(t, dsn.FormatDSN())
		migrate(t, db, mysql.Config{})
		execAll(t, db, "CREATE TABLE account (id INT PRIMARY KEY, balance INT NOT NULL) ENGINE = InnoDB",
			"CREATE TABLE ledger (name VARCHAR(64) NOT NULL, amount INT NOT NULL) ENGINE = InnoDB")
		for i := range bankAccounts {
			execAll(t, db, fmt.Sprintf("INSERT INTO account VALUES (%d, 1000)", i))
		}
		return db
	}
	k.a, k.b = open("bank_a"), open("bank_b")
	t.Cleanup(func() {
		stop()
		k.parts.Wait()
		if err := server.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	connect := func(name string) *natsbroker.Broker {
		b, err := server.Connect(ctx, natsbroker.Config{Name: name})
		noError(t, err)
		return b
	}
	run := func(service func(context.Context) error) {
		k.parts.Go(func() {
			if err := service(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	store := newOutbox(t, k.a)
	for i := range 2 { // one relays, one stands by
		relay := outbox.NewRelay(store, connect(fmt.Sprint("relay-", i)), outbox.RelayConfig{Name: "bank-a"})
		run(relay.Run)
	}
	k.box, err = outbox.New(ctx, store, outbox.Config{Doorbell: connect("bank-a")})
	noError(t, err)
	run(topics.NewOwner(registryOf(t, k.b), connect("server"), topics.OwnerConfig{}).Run)
	app := topics.NewApp(connect("bank-b"), newConsumer(t, k.b), topics.AppConfig{Name: "bank-b"})
	quick := topics.WithBackoff(func(int) time.Duration { return 20 * time.Millisecond })
	singly.Handle(app, "accounts", k.credit, quick)
	shared.HandleShared(app, "accounts", k.credit, quick)
	run(app.Run)
	noError(t, app.Ready(t.Context()))
	return k
}

// credit is bank B's business. Now and then it fails, with its work half done.
func (k *bank) credit(ctx context.Context, tx outbox.Tx, m topics.Received[transfer]) error {
	if _, err := tx.ExecContext(ctx, "UPDATE account SET balance = balance + ? WHERE id = ?", m.Data.Amount, m.Data.To); err != nil {
		return err
	}
	if k.tries.Add(1)%29 == 0 {
		return errors.New("no electricity")
	}
	_, err := tx.ExecContext(ctx, "INSERT INTO ledger VALUES (?, ?)", m.Data.Name, m.Data.Amount)
	return err
}

// send makes transfers until as many are acknowledged, and tells which. What was not may have been committed all the same.
func (k *bank) send(ctx context.Context, sender, n int, topic *topics.Topic[transfer]) (sent []string) {
	r := rand.New(rand.NewPCG(9, uint64(sender)))
	for i := 0; len(sent) < n && ctx.Err() == nil; i++ {
		tr := transfer{Name: fmt.Sprintf("%s-%d-%d", topic.Name(), sender, i), To: r.IntN(bankAccounts), Amount: 1 + r.IntN(5)}
		from := r.IntN(bankAccounts)
		err := k.box.Transact(ctx, func(tx outbox.Tx) error {
			if _, err := tx.ExecContext(ctx, "UPDATE account SET balance = balance - ? WHERE id = ?", tr.Amount, from); err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, "INSERT INTO ledger VALUES (?, ?)", tr.Name, -tr.Amount); err != nil {
				return err
			}
			_, err := k.box.Publish(ctx, tx, topic.Message(tr))
			return err
		})
		if err != nil {
			pause(ctx, 20*time.Millisecond)
			continue
		}
		sent = append(sent, tr.Name)
	}
	return sent
}

func ledger(t *testing.T, db *sql.DB) map[string][]int {
	t.Helper()
	all := map[string][]int{}
	rows, err := db.QueryContext(t.Context(), "SELECT name, amount FROM ledger")
	noError(t, err)
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var name string
		var amount int
		noError(t, rows.Scan(&name, &amount))
		all[name] = append(all[name], amount)
	}
	noError(t, rows.Err())
	return all
}

// TestBank moves money between two databases by messages while their server is killed (kill -9) and comes back. No money is made or
// destroyed, each transfer is exactly one debit and one credit, no acknowledged one is lost, and the outbox is empty in the end.
func TestBank(t *testing.T) { onEachServer(t, testBank) }

func testBank(t *testing.T, on testServer) {
	s := on.startOwn(t)
	singly, shared := bankTopic("bank.singly", true), bankTopic("bank.shared", false)
	k := newBank(t, s, singly, shared)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	const senders, each = 4, 150
	results := make(chan []string, senders)
	for i := range senders {
		topic := singly
		if i%2 == 1 {
			topic = shared
		}
		go func() { results <- k.send(ctx, i, each, topic) }()
	}
	waitFor(ctx, t, k.b, "SELECT COUNT(*) >= 100 FROM ledger")
	s.kill()
	s.start(t)
	acknowledged := 0
	var all []string
	for range senders {
		sent := <-results
		acknowledged += len(sent)
		all = append(all, sent...)
	}
	waitFor(ctx, t, k.a, "SELECT COUNT(*) = 0 FROM twostep_outbox")
	waitFor(ctx, t, k.b, "SELECT COUNT(*) = 0 FROM twostep_parked")

	debits, credits := ledger(t, k.a), ledger(t, k.b)
	for name, amounts := range debits {
		if len(amounts) != 1 || len(credits[name]) != 1 || amounts[0] != -credits[name][0] {
			t.Errorf("%s: debits %v, credits %v", name, amounts, credits[name])
		}
	}
	if len(credits) != len(debits) {
		t.Errorf("%d transfers debited, %d credited", len(debits), len(credits))
	}
	for _, name := range all {
		if len(debits[name]) != 1 {
			t.Errorf("%s was acknowledged and is gone", name)
		}
	}
	sum := count(t, k.a, "SELECT SUM(balance) FROM account") + count(t, k.b, "SELECT SUM(balance) FROM account")
	if sum != 2*1000*bankAccounts {
		t.Errorf("%d cents, want %d", sum, 2*1000*bankAccounts)
	}
	if acknowledged != senders*each {
		t.Errorf("%d of %d transfers acknowledged", acknowledged, senders*each)
	}
	t.Logf("%d transfers, %d acknowledged, %d executions", len(debits), acknowledged, k.tries.Load())
}

// waitFor waits until the query says 1. Errors pass: the server may be away.
func waitFor(ctx context.Context, t *testing.T, db *sql.DB, query string) {
	t.Helper()
	for {
		var yes bool
		err := db.QueryRowContext(ctx, query).Scan(&yes)
		if err == nil && yes {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("%s: not in time (%v)", query, err)
		}
		pause(ctx, 10*time.Millisecond)
	}
}
