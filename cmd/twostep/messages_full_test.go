package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/twostep-mq/twostep/adapters/sqlite"
	natsbroker "github.com/twostep-mq/twostep/broker/nats"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

func sayFullDisk(t *testing.T) []said {
	s := startTestServer(t, testConfig(t))
	return append(sayFullDatabase(t, s), sayFullBroker(t)...)
}

// A sender's database without room refuses what it cannot keep, whole; what it took before is executed, and with room everything
// goes on.
func sayFullDatabase(t *testing.T, s *server) []said {
	t.Helper()
	mustRun(t, s, "topics", "create", "bank.in")
	bank := newSender(t, outbox.Config{})
	bank.db.SetMaxOpenConns(1) // the limit below holds for a connection
	mustExec := func(query string) {
		t.Helper()
		if _, err := bank.db.ExecContext(t.Context(), query); err != nil {
			t.Fatal(err)
		}
	}
	mustExec(`CREATE TABLE debit (n INTEGER PRIMARY KEY)`)
	inBackground(t, outbox.NewRelay(bank.store, connect(t, s, natsbroker.Config{}), outbox.RelayConfig{Name: "bank"}).Run)
	mustExec(`PRAGMA max_page_count = 200`)

	// The business change and its message, or neither: in a transaction of the sender's and in Transact.
	debit := func(ctx context.Context, tx outbox.Transaction, n int) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO debit (n) VALUES (?)`, n); err != nil {
			return err
		}
		_, err := bank.box.Publish(ctx, tx, outbox.Message{Topic: "bank.in", Payload: fmt.Appendf(nil, `{"n":%d,"fill":%q}`, n, strings.Repeat("x", 50_000))})
		return err
	}
	own := func(ctx context.Context, n int) error {
		tx, err := bank.db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }()
		if err := debit(ctx, tx, n); err != nil {
			return err
		}
		return tx.Commit()
	}
	shared := func(ctx context.Context, n int) error {
		return bank.box.Transact(ctx, func(tx outbox.Tx) error { return debit(ctx, tx, n) })
	}
	committed := 0
	var full error
	for full == nil && committed < 1000 {
		if full = own(t.Context(), committed); full == nil {
			committed++
		}
	}
	mustExec(`PRAGMA max_page_count = 200`) // a connection that met a full disk may have been replaced, and its limit with it
	fullShared := shared(t.Context(), committed)
	if !errors.Is(full, sqlite.ErrFull) || !errors.Is(fullShared, sqlite.ErrFull) || committed == 0 {
		t.Fatalf("%d committed, then %v and %v", committed, full, fullShared)
	}
	if n := bank.rows(t); n != committed {
		t.Errorf("%d messages of %d debits", n, committed)
	}

	mustExec(`PRAGMA max_page_count = 100000`)
	for _, publish := range []func(context.Context, int) error{own, shared} {
		if err := publish(t.Context(), committed); err != nil {
			t.Errorf("with room again: %v", err)
		}
		committed++
	}
	executed := executeAll(t, s)
	eventually(t, 20*time.Second, func() (bool, string) {
		n := bank.rows(t)
		return n == 0, fmt.Sprintf("%d rows are not released", n)
	})
	if n := executed(); n != committed {
		t.Errorf("%d executed of %d", n, committed)
	}
	var all []said
	for about, err := range map[string]error{"database, own transaction": full, "database, Transact": fullShared} {
		all = append(all, said{about, strings.ReplaceAll(err.Error(), bank.path, "PATH"), "PATH", "free space on its disk, then try again"})
	}
	if all[0].about > all[1].about {
		all[0], all[1] = all[1], all[0]
	}
	return all
}

// executeAll subscribes a bank to bank.in that notes what it executes; executed counts it, and fails the test where something was
// executed twice.
func executeAll(t *testing.T, s *server) (executed func() int) {
	t.Helper()
	db, err := sqlite.Open(filepath.Join(t.TempDir(), "receiver.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if err := sqlite.Migrate(t.Context(), db, sqlite.Service); err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), `CREATE TABLE credit (n INTEGER)`); err != nil {
		t.Fatal(err)
	}
	store, err := sqlite.NewConsumer(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	app := topics.NewApp(connect(t, s, natsbroker.Config{}), store, topics.AppConfig{})
	topics.New(topics.Config[struct{ N int }]{Name: "bank.in"}).Handle(app, "accounts", func(ctx context.Context, tx outbox.Tx, m topics.Received[struct{ N int }]) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO credit (n) VALUES (?)`, m.Data.N)
		return err
	})
	inBackground(t, app.Run)
	return func() int {
		var all, different int
		if err := db.QueryRowContext(t.Context(), `SELECT count(*), count(DISTINCT n) FROM credit`).Scan(&all, &different); err != nil || all != different {
			t.Errorf("%d executions of %d messages, %v", all, different, err)
		}
		return different
	}
}

// A topic that keeps its messages refuses more than its stream holds: the rows wait, and go on when the stream has room.
func sayFullBroker(t *testing.T) []said {
	t.Helper()
	cfg := testConfig(t)
	cfg.Broker.TopicMaxBytes = 1 << 20
	s := startTestServer(t, cfg)
	mustRun(t, s, "topics", "create", "bank.log", "--delivery", "broker")
	bank := newSender(t, outbox.Config{})
	for range 4 {
		if err := bank.publish(t.Context(), outbox.Message{Topic: "bank.log", Payload: make([]byte, 400_000)}); err != nil {
			t.Fatal(err)
		}
	}
	var logs logLines
	relay := outbox.NewRelay(bank.store, connect(t, s, natsbroker.Config{}), outbox.RelayConfig{Name: "bank", Logger: logs.logger()})
	inBackground(t, relay.Run)
	var text string
	eventually(t, 20*time.Second, func() (bool, string) {
		text = logs.with("is full")
		return text != "" && bank.rows(t) == 2, logs.String()
	})

	// Somebody gives the stream more room.
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
	stream, err := js.Stream(t.Context(), "twostep-t-bank_-log")
	if err != nil {
		t.Fatal(err)
	}
	larger := stream.CachedInfo().Config
	larger.MaxBytes = 16 << 20
	if _, err := js.UpdateStream(t.Context(), larger); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, func() (bool, string) { return bank.rows(t) == 0, logs.String() })
	info, err := stream.Info(t.Context())
	if err != nil || info.State.Msgs != 4 {
		t.Errorf("the stream holds %+v, %v; want 4 messages", info, err)
	}
	return []said{{"broker, log of the relay", strings.ReplaceAll(text, bank.box.UUID(), "OUTBOX"), "topic=bank.log", "raise the limit of the topic's stream"}}
}
