package orm_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/twostep-mq/twostep/broker"
	natsbroker "github.com/twostep-mq/twostep/broker/nats"
	"github.com/twostep-mq/twostep/broker/nats/embedded"
	"github.com/twostep-mq/twostep/orchestrator/txn"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

// Transfer is money on its way from one account to another, in cents.
type Transfer struct {
	From   string `json:"from"`
	To     string `json:"to"`
	Amount int    `json:"amount"`
}

// TransIn carries transfers.
var TransIn = topics.New(topics.Config[Transfer]{Name: "bank.trans-in"})

var (
	errOverdrawn = errors.New("the account has not as much")
	errNoAccount = errors.New("there is no such account")
)

// bank is a service with an ORM: see the file of each.
type bank interface {
	// Send debits and publishes in a transaction of the ORM's own; errOverdrawn, after Publish, rolls it back.
	Send(ctx context.Context, t Transfer) error
	// Receive is the handler.
	Receive(ctx context.Context, tx outbox.Tx, m topics.Received[Transfer]) error
	// Exec runs SQL with the ORM in the handler's transaction.
	Exec(ctx context.Context, tx outbox.Tx, statement string) error
}

const (
	startBalance = 1000
	patience     = 30 * time.Second
)

// accounts makes anna and bert anew.
func (d database) accounts(t *testing.T) {
	t.Helper()
	d.exec(t, "DELETE FROM account", fmt.Sprintf("INSERT INTO account (name, balance) VALUES ('anna', %d), ('bert', %[1]d)", startBalance))
}

func (d database) balance(t *testing.T, name string) int {
	t.Helper()
	return d.count(t, "SELECT balance FROM account WHERE name = '"+name+"'")
}

func newOutbox(t *testing.T, d database) *outbox.Outbox {
	t.Helper()
	box, err := outbox.New(t.Context(), d.outbox, outbox.Config{})
	noError(t, err)
	return box
}

// promises checks what a service relies on, with the bank that open makes.
func promises(t *testing.T, d database, open func(*outbox.Outbox) bank) {
	t.Run("committed, executed once", func(t *testing.T) { executedOnce(t, d, open) })
	t.Run("rolled back, executed by nobody", func(t *testing.T) {
		d.accounts(t)
		if err := open(newOutbox(t, d)).Send(t.Context(), Transfer{"anna", "bert", startBalance + 1}); !errors.Is(err, errOverdrawn) {
			t.Errorf("%v, want errOverdrawn", err)
		}
		if rows, left := d.count(t, "SELECT COUNT(*) FROM twostep_outbox"), d.balance(t, "anna"); rows != 0 || left != startBalance {
			t.Errorf("%d messages, anna has %d", rows, left)
		}
	})
	t.Run("a handler that commits is told", func(t *testing.T) { handlerCommits(t, d, open(newOutbox(t, d))) })
	if d.kind != "sqlite" { // which has one writer, and so no deadlocks
		t.Run("a handler that swallows a deadlock is told", func(t *testing.T) { handlerSwallows(t, d, open(newOutbox(t, d))) })
	}
}

// executedOnce sends transfers through the relay, a broker and the dispatcher. Every first attempt fails after its work: what
// stands then is what the ORM did outside of the handler's transaction.
func executedOnce(t *testing.T, d database, open func(*outbox.Outbox) bank) {
	d.accounts(t)
	server, err := embedded.Start(t.Context(), embedded.Config{StoreDir: filepath.Join(t.TempDir(), "broker")})
	noError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	})
	b := connect(t, server)
	relay := outbox.NewRelay(d.outbox, b, outbox.RelayConfig{Name: "bank"})
	box, err := outbox.New(t.Context(), d.outbox, outbox.Config{Doorbell: relay})
	noError(t, err)
	service := open(box)

	var attempts atomic.Int64
	app := topics.NewApp(b, d.consumer, topics.AppConfig{Name: "bank"})
	TransIn.Handle(app, "accounts", func(ctx context.Context, tx outbox.Tx, m topics.Received[Transfer]) error {
		attempts.Add(1)
		if err := service.Receive(ctx, tx, m); err != nil || m.Attempt > 1 {
			return err
		}
		return errors.New("the first attempt fails")
	}, topics.WithBackoff(func(int) time.Duration { return time.Millisecond }))
	run(t, topics.NewOwner(d.registry, b, topics.OwnerConfig{}).Run)
	run(t, relay.Run)
	run(t, app.Run)
	ready, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	noError(t, app.Ready(ready))

	const transfers = 5
	for range transfers {
		noError(t, service.Send(t.Context(), Transfer{"anna", "bert", 10}))
	}
	noError(t, service.Send(t.Context(), Transfer{"anna", "nobody", 1}))
	eventually(t, func() (bool, string) {
		dead, err := d.consumer.Parked(t.Context(), topics.ParkedQuery{})
		noError(t, err)
		left := d.count(t, "SELECT COUNT(*) FROM twostep_outbox")
		done := left == 0 && len(dead) == 1 && dead[0].State == topics.ParkedDead && strings.Contains(dead[0].Reason, errNoAccount.Error())
		return done, fmt.Sprintf("%d messages are not released, parked are %+v", left, dead)
	})
	if a, b := d.balance(t, "anna"), d.balance(t, "bert"); a != startBalance-10*transfers-1 || b != startBalance+10*transfers {
		t.Errorf("anna has %d, bert %d", a, b)
	}
	if n := attempts.Load(); n != 2*transfers+1 {
		t.Errorf("%d attempts, want two for each transfer and one for the dead letter", n)
	}
}

func connect(t *testing.T, server *embedded.Server) broker.Broker {
	t.Helper()
	b, err := server.Connect(t.Context(), natsbroker.Config{Name: "bank"})
	noError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := b.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return b
}

// run runs a part of the service until the test ends.
func run(t *testing.T, part func(context.Context) error) {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- part(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func eventually(t *testing.T, check func() (done bool, what string)) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		done, what := check()
		if done {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v: %s", patience, what)
		}
		<-tick.C
	}
}

// received is a message as the handler gets it, to call it by hand.
func received(t Transfer) topics.Received[Transfer] { return topics.Received[Transfer]{Data: t} }

// claimed begins a handler's transaction, as the dispatcher does.
func claimed(t *testing.T, d database) topics.StoreTx {
	t.Helper()
	tx, err := d.consumer.Begin(t.Context())
	noError(t, err)
	t.Cleanup(func() { _ = tx.Rollback() })
	subscription, message := uuid.NewString(), uuid.NewString()
	_, err = tx.Claim(t.Context(), subscription, []string{message}, txn.Success)
	noError(t, err)
	return tx
}

// handlerCommits: COMMIT as SQL cannot be prevented on every database. It is always noticed.
func handlerCommits(t *testing.T, d database, b bank) {
	d.accounts(t)
	tx := claimed(t, d)
	noError(t, b.Receive(t.Context(), tx.Tx(), received(Transfer{"anna", "bert", 10})))
	committed := b.Exec(t.Context(), tx.Tx(), "COMMIT")
	if d.kind == "sqlite" && committed == nil {
		t.Error("COMMIT was not refused")
	}
	if err := tx.Commit(t.Context()); !errors.Is(err, topics.ErrTransactionLost) {
		t.Errorf("%v, want ErrTransactionLost", err)
	}
	want := startBalance + 10 // what was committed by hand stands
	if d.kind == "sqlite" {
		want = startBalance
	}
	if got := d.balance(t, "bert"); got != want {
		t.Errorf("bert has %d, want %d", got, want)
	}
}

// handlerSwallows lets two handlers run into a deadlock and swallow its error. One of them is undone as a whole, and told so.
func handlerSwallows(t *testing.T, d database, b bank) {
	d.accounts(t)
	var both sync.WaitGroup // have locked their first account
	both.Add(2)
	results := make(chan error, 2)
	for _, order := range [][]string{{"anna", "bert"}, {"bert", "anna"}} {
		tx := claimed(t, d)
		credit := func(account string) error {
			return b.Exec(t.Context(), tx.Tx(), "UPDATE account SET balance = balance + 1 WHERE name = '"+account+"'")
		}
		go func() {
			results <- func() error {
				err := credit(order[0])
				both.Done()
				if err != nil {
					return err
				}
				both.Wait()
				_ = credit(order[1])
				return tx.Commit(t.Context())
			}()
		}()
	}
	lost := 0
	for range 2 {
		if err := <-results; err != nil {
			lost++
			if !errors.Is(err, topics.ErrTransactionLost) && !errors.Is(err, topics.ErrTryAgain) {
				t.Errorf("%v, want ErrTransactionLost or ErrTryAgain", err)
			}
		}
	}
	if anna, bert := d.balance(t, "anna"), d.balance(t, "bert"); lost != 1 || anna != startBalance+1 || bert != startBalance+1 {
		t.Errorf("%d lost; anna has %d, bert %d", lost, anna, bert)
	}
}
