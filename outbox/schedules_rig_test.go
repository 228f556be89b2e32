package outbox_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/twostep-mq/twostep/broker"
	brokermem "github.com/twostep-mq/twostep/broker/brokertest/memory"
	"github.com/twostep-mq/twostep/orchestrator/txn"
	"github.com/twostep-mq/twostep/outbox"
	outboxmem "github.com/twostep-mq/twostep/outbox/outboxtest/memory"
)

// rig is one outbox, one broker and a clock; relays and readers move when the test says so.
type rig struct {
	t      *testing.T
	ctx    context.Context
	now    time.Time
	server *brokermem.Server
	store  *outboxmem.Store
	uuid   string
	// hands is a connection of the test's own.
	hands   *brokermem.Conn
	version int64
	names   map[string]string // id → name
	// dbOf gives each relay its connection to the database; nil: the store itself.
	dbOf func(outbox.RelayStore) outbox.RelayStore
}

func newRig(t *testing.T, cfg outboxmem.Config) *rig {
	t.Helper()
	g := &rig{t: t, ctx: context.Background(), now: time.Unix(1_700_000_000, 0), names: map[string]string{}}
	g.server = brokermem.New(brokermem.Config{Now: func() time.Time { return g.now }})
	if cfg.UUID == "" {
		cfg.UUID = uuid.NewString()
	}
	g.uuid = cfg.UUID
	g.store = outboxmem.New(cfg)
	g.hands = g.server.Connect("test")
	g.must(g.hands.EnsureInbox(g.ctx, outbox.Inbox(g.uuid)))
	return g
}

func (g *rig) must(err error) {
	g.t.Helper()
	if err != nil {
		g.t.Fatal(err)
	}
}

func (g *rig) pass(d time.Duration) { g.now = g.now.Add(d) }

// message makes a message; name is its payload and its name in failures.
func (g *rig) message(topic, key, name string) *broker.Message {
	m := &broker.Message{ID: uuid.NewString(), Topic: topic, Key: key, ContentType: "text/plain", Payload: []byte(name), Time: g.now}
	g.names[m.ID] = name
	return m
}

// commit publishes messages, each in a transaction of its own.
func (g *rig) commit(ms ...*broker.Message) {
	g.t.Helper()
	for _, m := range ms {
		tx := g.store.Begin()
		_, err := tx.Insert(m)
		g.must(err)
		g.must(tx.Commit())
	}
}

// open inserts a message and leaves its transaction open.
func (g *rig) open(m *broker.Message) *outboxmem.Tx {
	g.t.Helper()
	tx := g.store.Begin()
	_, err := tx.Insert(m)
	g.must(err)
	return tx
}

// announce puts the registry on the broker, with the next version, as the owner "owner" does.
func (g *rig) announce(ts ...outbox.RegistryTopic) {
	g.version++
	g.announceAs(outbox.RegistryHead{Owner: "owner", Version: g.version}, ts...)
}

func (g *rig) announceAs(head outbox.RegistryHead, ts ...outbox.RegistryTopic) {
	g.t.Helper()
	for _, t := range ts {
		t.Version = head.Version
		g.must(g.hands.EnsureTopic(g.ctx, broker.TopicSpec{Name: t.Name}))
		for _, s := range t.Subscriptions {
			if !s.Removed {
				g.must(g.hands.EnsureSubscription(g.ctx, broker.SubscriptionSpec{UID: s.UID, Topic: t.Name, Since: s.Created}))
			}
		}
		g.put(outbox.StateTopicPrefix+t.Name, t)
	}
	g.put(outbox.StateHead, head)
}

func (g *rig) put(key string, v any) {
	g.t.Helper()
	b, err := json.Marshal(v)
	g.must(err)
	g.must(g.hands.PutState(g.ctx, key, b))
}

// topic makes a registry entry with the given subscriptions.
func (g *rig) topic(name string, subs ...*reader) outbox.RegistryTopic {
	t := outbox.RegistryTopic{Name: name, TopicSettings: outbox.TopicSettings{
		Delivery: outbox.DeliveryConfirmed, NoSubscribers: outbox.NoSubscribersHold,
	}}
	for _, s := range subs {
		t.Subscriptions = append(t.Subscriptions, outbox.RegistrySubscription{
			UID: s.uid, Topic: name, Name: s.name, Created: s.created, Removed: s.removed,
		})
	}
	return t
}

// runner is a relay and what its Run would do with goroutines.
type runner struct {
	*outbox.Relay
	g     *rig
	conn  *brokermem.Conn
	state *brokermem.Watcher
	deaf  bool // hears nothing new of the registry
	inbox *brokermem.Batch
}

func (g *rig) relay(name string) *runner { return g.relayWith(outbox.RelayConfig{Owner: name}) }

func (g *rig) relayWith(cfg outbox.RelayConfig) *runner {
	cfg.Now = func() time.Time { return g.now }
	r := &runner{g: g, conn: g.server.Connect(cfg.Owner)}
	var store outbox.RelayStore = g.store
	if g.dbOf != nil {
		store = g.dbOf(store)
	}
	r.Relay = outbox.NewRelay(store, r.conn, cfg)
	r.state = r.conn.Watch("registry.")
	return r
}

// step is one round of the relay: it hears the registry, reads its inbox and works. Errors are part of some schedules.
func (r *runner) step() error {
	for !r.deaf {
		ev, ok := r.state.Next()
		if !ok {
			break
		}
		r.Announce(ev)
	}
	if r.Leads() && r.inbox == nil {
		if b := r.conn.Pull(broker.Source{Inbox: outbox.Inbox(r.g.uuid), MaxBatch: 1000}, 0); b != nil {
			r.inbox = b
			r.Offer(b.Deliveries, func(err error) {
				r.inbox = nil
				if err != nil {
					b.Expire()
					return
				}
				b.Settle()
			})
		}
	}
	_, err := r.Step(r.g.ctx)
	return err
}

// run steps for a while, with a broker that stores and acknowledges everything; the readers take what there is.
func (r *runner) run(d time.Duration, readers ...*reader) {
	r.g.t.Helper()
	const tick = 50 * time.Millisecond
	for until := r.g.now.Add(d); r.g.now.Before(until); r.g.pass(tick) {
		_ = r.Ring(r.g.ctx, "")
		if err := r.step(); err != nil {
			r.g.t.Logf("step: %v", err)
		}
		r.g.server.PublishAll()
		for _, rd := range readers {
			rd.read()
		}
	}
}

// kill ends the relay as SIGKILL does. Its lease is then free after takeoverTime.
func (r *runner) kill() { r.conn.Kill() }

// takeoverTime is enough for another relay to see that nobody beats.
const takeoverTime = 6 * time.Second

// reader executes what a subscription gets and sends receipts, without a database: it remembers ids.
type reader struct {
	g          *rig
	uid, name  string
	topic      string
	created    int64
	removed    bool
	conn       *brokermem.Conn
	executed   []string // names, in order
	done       map[string]bool
	duplicates int
	// mute: it sends no receipts. got keeps what was delivered.
	mute bool
	got  []broker.Message
	// keep says that got is to be filled.
	keep bool
}

func (g *rig) reader(topic, name string) *reader {
	return &reader{
		g: g, uid: uuid.NewString(), name: name, topic: topic, created: g.now.UnixNano(), keep: true,
		conn: g.server.Connect(name), done: map[string]bool{},
	}
}

// read takes one batch from the topic and one from the inbox.
func (rd *reader) read() (n int) {
	for _, src := range []broker.Source{
		{Subscription: broker.SubscriptionSpec{UID: rd.uid, Topic: rd.topic, Since: rd.created}, MaxBatch: 1000},
		{Inbox: outbox.SubscriptionInbox(rd.uid), MaxBatch: 1000},
	} {
		b := rd.conn.Pull(src, 0)
		if b == nil {
			continue
		}
		n += len(b.Deliveries)
		rd.execute(b.Deliveries)
		b.Settle()
	}
	return n
}

func (rd *reader) execute(ds []broker.Delivery) {
	rd.g.t.Helper()
	entries := make([]outbox.ReceiptEntry, 0, len(ds))
	for _, d := range ds {
		if rd.keep {
			rd.got = append(rd.got, *d.Message)
		}
		if rd.done[d.ID] {
			rd.duplicates++
		} else {
			rd.done[d.ID] = true
			rd.executed = append(rd.executed, rd.g.names[d.ID])
		}
		entries = append(entries, outbox.ReceiptEntry{Seq: d.Seq, ID: d.ID, Outcome: txn.Success})
	}
	if !rd.mute {
		rd.g.receipt(rd.g.uuid, rd.uid, entries...)
	}
}

// receipt puts a receipt into an outbox's inbox.
func (g *rig) receipt(box, uid string, entries ...outbox.ReceiptEntry) {
	g.t.Helper()
	payload, err := outbox.EncodeReceipt(uid, entries)
	g.must(err)
	_, err = g.hands.Send(g.ctx, outbox.Inbox(box), []*broker.Message{{ID: uuid.NewString(), ContentType: outbox.ReceiptType, Payload: payload}})
	if !errors.Is(err, broker.ErrNoInbox) { // gone with the broker, and the receipt with it
		g.must(err)
	}
}

func entry(seq int64, m *broker.Message) outbox.ReceiptEntry {
	return outbox.ReceiptEntry{Seq: seq, ID: m.ID, Outcome: txn.Success}
}

// waiting names the rows in the outbox.
func (g *rig) waiting() []string {
	out := []string{}
	for _, r := range g.store.Rows() {
		out = append(out, g.names[r.ID])
	}
	return out
}

func (g *rig) demandWaiting(want ...string) {
	g.t.Helper()
	if got := g.waiting(); !slices.Equal(got, want) {
		g.t.Fatalf("in the outbox: %v, want %v", got, want)
	}
}

func (rd *reader) demandExecuted(want ...string) {
	rd.g.t.Helper()
	if !slices.Equal(rd.executed, want) {
		rd.g.t.Fatalf("%s executed %v, want %v", rd.name, rd.executed, want)
	}
}

func names(n int, format string) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf(format, i+1)
	}
	return out
}
