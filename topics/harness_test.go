package topics_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/twostep-mq/twostep/adapters/sqlite"
	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/orchestrator/txn"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

// bench is a consumer with a real database: a dispatcher, a clock that the test moves, the receipts it sent and the effects its
// handler committed.
type bench struct {
	t     *testing.T
	db    *sql.DB
	store topics.Store
	sub   outbox.RegistrySubscription

	mu       sync.Mutex
	now      time.Time
	receipts map[string]txn.Outcome // by outbox/seq/id
	batches  int                    // receipts sent
	// fail, if set, decides about each execution.
	fail func(ctx context.Context, tx outbox.Tx, d broker.Delivery) error
	cfg  topics.DispatcherConfig
	d    *topics.Dispatcher
}

// errDone, from fail, ends the handler without an effect and without an error.
var errDone = errors.New("done")

const outboxA, outboxB = "0a0a0a0a-0000-4000-8000-000000000001", "0b0b0b0b-0000-4000-8000-000000000002"

func openConsumer(t testing.TB) (*sql.DB, *sqlite.Consumer) {
	t.Helper()
	db, err := sqlite.Open(filepath.Join(t.TempDir(), "consumer.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if err := sqlite.Migrate(t.Context(), db, sqlite.Service); err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), `CREATE TABLE effect (n INTEGER PRIMARY KEY AUTOINCREMENT, subscription TEXT, id TEXT, "key" TEXT, attempt INTEGER)`); err != nil {
		t.Fatal(err)
	}
	store, err := sqlite.NewConsumer(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	return db, store
}

func newBench(t *testing.T, change func(*topics.DispatcherConfig)) *bench {
	t.Helper()
	db, store := openConsumer(t)
	b := &bench{
		t: t, db: db, store: store, now: time.Unix(1_750_000_000, 0).UTC(), receipts: map[string]txn.Outcome{},
		sub: outbox.RegistrySubscription{UID: uuid.NewString(), Topic: "bank.trans-in", Name: "accounts", Created: 1},
	}
	b.restart(change)
	return b
}

// restart gives the consumer a new dispatcher, as a new process would have.
func (b *bench) restart(change func(*topics.DispatcherConfig)) {
	b.cfg = topics.DispatcherConfig{
		Subscription: b.sub, Store: b.store, Send: b.send, Handler: b.handle, HoldOnDead: true, MaxAttempts: 3,
		Backoff: func(n int) time.Duration { return time.Duration(n) * time.Second },
		Now:     b.clock,
	}
	if change != nil {
		change(&b.cfg)
	}
	b.d = topics.NewDispatcher(b.cfg)
}

// twin is another consumer on the same database.
func (b *bench) twin(sub outbox.RegistrySubscription, change func(*topics.DispatcherConfig)) *bench {
	o := &bench{t: b.t, db: b.db, store: b.store, sub: sub, now: b.clock(), receipts: map[string]txn.Outcome{}}
	o.restart(change)
	return o
}

func (b *bench) clock() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now
}

func (b *bench) pass(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now = b.now.Add(d)
}

func (b *bench) send(_ context.Context, inbox string, ms []*broker.Message) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range ms {
		r, err := outbox.DecodeReceipt(m.Payload)
		if err != nil || m.ContentType != outbox.ReceiptType || r.Subscription != b.sub.UID {
			return 0, fmt.Errorf("receipt %+v of type %s: %w", r, m.ContentType, err)
		}
		b.batches++
		for _, e := range r.Entries {
			b.receipts[receiptKey(inbox, e.Seq, e.ID)] = e.Outcome
		}
	}
	return len(ms), nil
}

func receiptKey(inbox string, seq int64, id string) string {
	return fmt.Sprintf("%s/%d/%s", inbox, seq, id)
}

func (b *bench) handle(ctx context.Context, tx outbox.Tx, d broker.Delivery) error {
	if b.fail != nil {
		if err := b.fail(ctx, tx, d); err != nil {
			if errors.Is(err, errDone) {
				return nil
			}
			return err
		}
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO effect (subscription, id, "key", attempt) VALUES (?, ?, ?, ?)`, b.sub.UID, d.ID, d.Key, d.Attempt)
	return err
}

// process hands a batch over; it must be settled.
func (b *bench) process(batch ...broker.Delivery) {
	b.t.Helper()
	if err := b.d.Process(b.t.Context(), batch); err != nil {
		b.t.Fatalf("process: %v", err)
	}
}

func (b *bench) runParked() time.Time {
	b.t.Helper()
	next, err := b.d.RunParked(b.t.Context())
	if err != nil {
		b.t.Fatalf("run parked: %v", err)
	}
	return next
}

func (b *bench) ask(q topics.ParkedRequest) topics.ParkedReply {
	b.t.Helper()
	body, err := json.Marshal(q)
	if err != nil {
		b.t.Fatal(err)
	}
	var reply topics.ParkedReply
	if err := json.Unmarshal(b.d.Answer(b.t.Context(), body), &reply); err != nil {
		b.t.Fatal(err)
	}
	return reply
}

// effects are the names of the executed messages, in the order of their execution.
func (b *bench) effects() []string {
	b.t.Helper()
	rows, err := b.db.QueryContext(b.t.Context(), `SELECT id FROM effect WHERE subscription = ? ORDER BY n`, b.sub.UID)
	if err != nil {
		b.t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	list := []string{}
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			b.t.Fatal(err)
		}
		list = append(list, nameOf(id))
	}
	if err := rows.Err(); err != nil {
		b.t.Fatal(err)
	}
	return list
}

func (b *bench) wantEffects(names ...string) {
	b.t.Helper()
	if got := b.effects(); !slices.Equal(got, names) {
		b.t.Errorf("executed %q, want %q", got, names)
	}
}

func (b *bench) parkedRows() []topics.Parked {
	b.t.Helper()
	ps, err := b.store.Parked(b.t.Context(), topics.ParkedQuery{Subscription: b.sub.UID})
	if err != nil {
		b.t.Fatal(err)
	}
	return ps
}

// wantParked compares what is parked, as "name:state:attempts".
func (b *bench) wantParked(want ...string) {
	b.t.Helper()
	got := []string{}
	for _, p := range b.parkedRows() {
		got = append(got, fmt.Sprintf("%s:%s:%d", nameOf(p.Message.ID), p.State, p.Attempts))
	}
	if !slices.Equal(got, want) {
		b.t.Errorf("parked %q, want %q", got, want)
	}
}

// receipt is the word sent for a message's row; empty: none.
func (b *bench) receipt(d broker.Delivery) txn.Outcome {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.receipts[receiptKey(outbox.Inbox(d.Outbox), d.Seq, d.ID)]
}

func (b *bench) wantReceipt(d broker.Delivery, want txn.Outcome) {
	b.t.Helper()
	if got := b.receipt(d); got != want {
		b.t.Errorf("receipt of %s: %q, want %q", nameOf(d.ID), got, want)
	}
}

// barrier is the outcome in the barrier row of a message; empty: none.
func (b *bench) barrier(d broker.Delivery) txn.Outcome {
	b.t.Helper()
	var o txn.Outcome
	err := b.db.QueryRowContext(b.t.Context(), `SELECT outcome FROM twostep_barrier WHERE gid = ? AND branch_id = ? AND op = 'action' AND barrier_id = '01'`, d.ID, b.sub.UID).Scan(&o)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		b.t.Fatal(err)
	}
	return o
}

func (b *bench) wantBarrier(d broker.Delivery, want txn.Outcome) {
	b.t.Helper()
	if got := b.barrier(d); got != want {
		b.t.Errorf("barrier row of %s: %q, want %q", nameOf(d.ID), got, want)
	}
}

// names makes message ids of short names and back.
func idOf(name string) string {
	var u uuid.UUID
	copy(u[:], name)
	return u.String()
}

func nameOf(id string) string {
	u, err := uuid.Parse(id)
	if err != nil {
		return id
	}
	n := slices.Index(u[:], 0)
	if n < 0 {
		n = len(u)
	}
	return string(u[:n])
}

// msg is the message of a name, from row seq of outbox A.
func msg(name string, seq int64, change ...func(*broker.Delivery)) broker.Delivery {
	d := broker.Delivery{
		Message: &broker.Message{
			ID: idOf(name), Topic: "bank.trans-in", ContentType: "application/json", Payload: []byte(`{}`),
			Outbox: outboxA, Seq: seq, Attempt: 1,
		},
		Position: broker.Position{Stream: "s", Offset: uint64(seq)},
	}
	for _, c := range change {
		c(&d)
	}
	return d
}

func key(k string) func(*broker.Delivery) { return func(d *broker.Delivery) { d.Key = k } }
func prev(name string) func(*broker.Delivery) {
	return func(d *broker.Delivery) { d.Prev = idOf(name) }
}
func redelivered(d *broker.Delivery)         { d.Redelivered = true }
func again(n int) func(*broker.Delivery)     { return func(d *broker.Delivery) { d.Attempt = n } }
func from(box string) func(*broker.Delivery) { return func(d *broker.Delivery) { d.Outbox = box } }

// failing makes messages of these names fail.
func failing(names ...string) func(context.Context, outbox.Tx, broker.Delivery) error {
	return func(_ context.Context, _ outbox.Tx, d broker.Delivery) error {
		if slices.Contains(names, nameOf(d.ID)) {
			return fmt.Errorf("no such account (%s)", nameOf(d.ID))
		}
		return nil
	}
}

// bothForms runs a test with a transaction per message and with a shared one.
func bothForms(t *testing.T, fn func(t *testing.T, b *bench)) {
	t.Helper()
	for _, shared := range []bool{false, true} {
		t.Run(fmt.Sprintf("shared=%t", shared), func(t *testing.T) {
			t.Parallel()
			fn(t, newBench(t, func(c *topics.DispatcherConfig) { c.Shared = shared }))
		})
	}
}
