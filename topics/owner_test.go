package topics_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
	"github.com/twostep-mq/twostep/topics/topicstest/memory"
)

func TestOwnerMakesWhatServicesDeclare(t *testing.T) {
	t.Parallel()
	c := newCourt(t, memory.NewRegistry("owner-1"))
	c.declare(topics.Declaration{Topic: "bank.trans-in", Settings: keyed(), Subscription: "accounts"})
	if err := c.see(); err != nil || c.at("topic") >= 0 {
		t.Fatalf("before the state was read to its end: %v, did %q", err, c.log)
	}
	c.watch()
	got := c.announced("bank.trans-in")
	if len(got.Subscriptions) != 1 || got.TopicSettings != keyed() {
		t.Fatalf("announced %+v", got)
	}
	s := got.Subscriptions[0]
	if _, err := uuid.Parse(s.UID); err != nil || s.Name != "accounts" || s.Topic != "bank.trans-in" || s.Created != c.now.UnixNano() {
		t.Errorf("subscription %+v", s)
	}
	// On the broker first, the announcement after it, the head last.
	order := []string{"topic bank.trans-in", "inbox sub." + s.UID, "reader " + s.UID, "put registry.topic.bank.trans-in", "put registry.head"}
	for i := 1; i < len(order); i++ {
		if c.at(order[i-1]) < 0 || c.at(order[i-1]) > c.at(order[i]) {
			t.Errorf("%q not before %q in %q", order[i-1], order[i], c.log)
		}
	}
	if h := c.head(); h.Owner != "owner-1" || h.Version != got.Version {
		t.Errorf("head %+v of topic version %d", h, got.Version)
	}
	// Declared again, by many: nothing changes.
	version := c.head().Version
	c.declare(topics.Declaration{Topic: "bank.trans-in", Settings: keyed(), Subscription: "accounts"})
	_ = c.see()
	c.restart()
	c.watch()
	if got := c.announced("bank.trans-in"); len(got.Subscriptions) != 1 || c.head().Version != version {
		t.Errorf("declared again: %+v, version %d, before %d", got, c.head().Version, version)
	}
}

// What cannot be finished now is finished later, and nothing is announced before it stands on the broker.
func TestOwnerGoesOnWhereItFailed(t *testing.T) {
	t.Parallel()
	for _, op := range []string{"topic", "inbox", "reader", "put registry.topic", "put registry.head"} {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			c := newCourt(t, memory.NewRegistry("owner-1"))
			c.watch()
			down := errors.New("broker down")
			c.fail = func(o string) error {
				if strings.HasPrefix(o, op) {
					return down
				}
				return nil
			}
			c.declare(topics.Declaration{Topic: "t", Settings: keyed(), Subscription: "s"})
			if err := c.see(); !errors.Is(err, down) {
				t.Fatalf("see: %v", err)
			}
			if !strings.HasPrefix(op, "put") && len(c.announced("t").Subscriptions) > 0 {
				t.Fatal("announced before it stood on the broker")
			}
			c.fail = nil
			if err := c.owner.OnState(t.Context(), broker.StateEvent{Current: true}); err != nil {
				t.Fatal(err)
			}
			_ = c.see()
			got := c.announced("t")
			if len(got.Subscriptions) != 1 || c.head().Version < got.Version {
				t.Fatalf("announced %+v, head %+v", got, c.head())
			}
			// One reader and one inbox: what an earlier try left behind is gone.
			if uid := got.Subscriptions[0].UID; len(c.made) != 3 || !c.made["reader "+uid] || !c.made["inbox sub."+uid] {
				t.Errorf("on the broker: %v", c.made)
			}
		})
	}
}

// A store that stores, and then says that it did not.
type doubtfulRegistry struct {
	topics.RegistryStore
	doubt error
}

func (r *doubtfulRegistry) ApplyRegistry(ctx context.Context, from int64, c topics.RegistryChange) error {
	err := r.RegistryStore.ApplyRegistry(ctx, from, c)
	if len(c.Topics) == 0 {
		return err
	}
	doubt := r.doubt
	r.doubt = nil
	return errors.Join(err, doubt)
}

func TestOwnerFindsOutWhatWasStored(t *testing.T) {
	t.Parallel()
	c := newCourt(t, &doubtfulRegistry{memory.NewRegistry("owner-1"), errors.New("connection lost")})
	c.watch()
	c.declare(topics.Declaration{Topic: "t", Settings: keyed(), Subscription: "s"})
	if err := c.see(); err == nil {
		t.Fatal("the store's doubt was not told")
	}
	c.report(outbox.Report{Outbox: outboxA, Name: "shop"}) // anything that lets it go on
	if err := c.see(); err != nil {
		t.Fatal(err)
	}
	got := c.announced("t")
	if len(got.Subscriptions) != 1 {
		t.Fatalf("announced %+v", got)
	}
	if c.at("delete reader") >= 0 {
		t.Errorf("a reader that is needed was removed: %q", c.log)
	}
	if uid := got.Subscriptions[0].UID; !c.made["reader "+uid] || !c.made["inbox sub."+uid] {
		t.Errorf("on the broker: %v", c.made)
	}
}

// Removals are believed, whoever knows of them; of two subscriptions of one name the older stays.
func TestOwnerBelievesRemovals(t *testing.T) {
	t.Parallel()
	c := newCourt(t, memory.NewRegistry("owner-1"))
	c.watch()
	c.declare(topics.Declaration{Topic: "t", Settings: keyed(), Subscription: "gone"})
	c.declare(topics.Declaration{Topic: "t", Settings: keyed(), Subscription: "twice"})
	_ = c.see()
	subs := c.announced("t").Subscriptions
	gone, younger := subs[0], subs[1]
	gone.Removed = true
	older := outbox.RegistrySubscription{UID: uuid.NewString(), Topic: "t", Name: "twice", Created: younger.Created - 1}
	c.report(outbox.Report{Outbox: outboxA, Name: "shop", Subscriptions: []outbox.RegistrySubscription{gone, older}})
	_ = c.see()
	for _, s := range c.announced("t").Subscriptions {
		if s.Removed != (s.UID != older.UID) || c.made["reader "+s.UID] == s.Removed {
			t.Errorf("announced %+v, reader stands: %t", s, c.made["reader "+s.UID])
		}
	}
}

func TestOwnerTakesOverWhatOutboxesRemember(t *testing.T) {
	t.Parallel()
	c := newCourt(t, memory.NewRegistry("owner-2")) // a new store; the old one is gone
	old := outbox.RegistrySubscription{UID: uuid.NewString(), Topic: "orders", Name: "billing", Created: 77}
	gone := outbox.RegistrySubscription{UID: uuid.NewString(), Topic: "orders", Name: "old", Created: 5, Removed: true}
	c.report(outbox.Report{
		Outbox: outboxA, Name: "shop", Owner: "owner-1", Version: 41, Subscriptions: []outbox.RegistrySubscription{old, gone}, Topics: []string{"orders", "lonely"},
	})
	// The service that was restarted meanwhile declares by name, and must not get a second subscription.
	c.declare(topics.Declaration{Topic: "orders", Settings: keyed(), Subscription: "billing"})
	c.watch()
	got := c.announced("orders")
	if !slices.Equal(got.Subscriptions, []outbox.RegistrySubscription{old, gone}) {
		t.Errorf("announced %+v, want %+v", got.Subscriptions, []outbox.RegistrySubscription{old, gone})
	}
	if c.announced("lonely").Name != "lonely" {
		t.Error("a topic only an outbox knows was not taken over")
	}
	if h := c.head(); h.Owner != "owner-2" || h.Version <= 41 || !slices.Equal(h.Merged, []string{outboxA}) {
		t.Errorf("head %+v: want a version above 41 that has merged %s", h, outboxA)
	}
	if !c.made["reader "+old.UID] || c.made["reader "+gone.UID] {
		t.Errorf("on the broker: %v", c.made)
	}
	if c.at("reader since "+old.UID) < 0 {
		t.Error("the reader of an old subscription must begin when it was made")
	}
}

// A restored store is behind what was announced and recorded: it takes in what was announced and goes above it.
func TestOwnerWithARestoredStore(t *testing.T) {
	t.Parallel()
	c := newCourt(t, memory.NewRegistry("owner-1"))
	c.watch()
	if _, err := c.owner.CreateTopic(t.Context(), "t", keyed()); err != nil {
		t.Fatal(err)
	}
	s, err := c.owner.Subscribe(t.Context(), "t", "s")
	if err != nil {
		t.Fatal(err)
	}
	before := c.head().Version
	c.store = memory.NewRegistry("owner-1")
	c.restart()
	c.watch()
	if got := c.announced("t"); !slices.Equal(got.Subscriptions, []outbox.RegistrySubscription{s}) || got.TopicSettings != keyed() {
		t.Errorf("announced %+v, want %+v", got, s)
	}
	if c.head().Version <= before {
		t.Errorf("head %+v, want a version above %d", c.head(), before)
	}
}

// A relay that was away recorded a higher version of an owner before this one: it can only catch up with a head above.
func TestOwnerRaisesItsVersionForALateReport(t *testing.T) {
	t.Parallel()
	c := newCourt(t, memory.NewRegistry("owner-2"))
	c.watch()
	c.report(outbox.Report{Outbox: outboxA, Name: "shop"})
	_ = c.see()
	for _, r := range []outbox.Report{
		{Outbox: outboxA, Name: "shop", Owner: "owner-1", Version: 900},
		{Outbox: outboxB, Name: "bank", Owner: "owner-1", Version: c.head().Version},
	} {
		c.report(r)
		_ = c.see()
		if h := c.head(); h.Version <= r.Version || !slices.Contains(h.Merged, r.Outbox) {
			t.Errorf("head %+v after a report of version %d", h, r.Version)
		}
	}
	// The same report every second changes nothing.
	version := c.head().Version
	for range 3 {
		c.report(outbox.Report{Outbox: outboxB, Name: "bank", Owner: "owner-2", Version: version})
		_ = c.see()
	}
	if c.head().Version != version {
		t.Errorf("version grew from %d to %d without a change", version, c.head().Version)
	}
}

func TestOwnerMakesEverythingAgainAfterAWipe(t *testing.T) {
	t.Parallel()
	c := newCourt(t, memory.NewRegistry("owner-1"))
	c.watch()
	c.declare(topics.Declaration{Topic: "t", Settings: keyed(), Subscription: "s"})
	_ = c.see()
	want, head := c.announced("t"), c.head()
	c.log = nil
	c.wipe()
	if got := c.announced("t"); got.Version != want.Version || !slices.Equal(got.Subscriptions, want.Subscriptions) || c.head().Version != head.Version {
		t.Errorf("announced %+v and %+v after the wipe, before %+v and %+v", got, c.head(), want, head)
	}
	uid := want.Subscriptions[0].UID
	if !c.made["topic t"] || !c.made["inbox sub."+uid] || c.at("reader since "+uid) < 0 {
		t.Errorf("after the wipe did %q", c.log)
	}
	if c.at("reader since "+uid) > c.at("put registry.topic.t") {
		t.Errorf("announced before the reader stood: %q", c.log)
	}
}

func TestOwnerUnsubscribes(t *testing.T) {
	t.Parallel()
	c := newCourt(t, memory.NewRegistry("owner-1"))
	c.watch()
	c.declare(topics.Declaration{Topic: "t", Settings: keyed(), Subscription: "s"})
	_ = c.see()
	uid := c.announced("t").Subscriptions[0].UID
	if _, err := c.owner.Unsubscribe(t.Context(), "t", "nobody"); !errors.Is(err, topics.ErrUnknownSubscription) {
		t.Errorf("unsubscribe nobody: %v", err)
	}
	if _, err := c.owner.Unsubscribe(t.Context(), "t", "s"); err != nil {
		t.Fatal(err)
	}
	if got := c.announced("t"); !got.Subscriptions[0].Removed {
		t.Errorf("announced %+v", got)
	}
	if c.made["reader "+uid] || c.made["inbox sub."+uid] {
		t.Errorf("on the broker: %v", c.made)
	}
	// Its declaration is gone, so the owner does not bring it back at its next start.
	c.restart()
	c.watch()
	if got := c.announced("t"); len(got.Subscriptions) != 1 {
		t.Errorf("came back: %+v", got)
	}
	// A later subscription of the name is another one.
	s, err := c.owner.Subscribe(t.Context(), "t", "s")
	if err != nil || s.UID == uid {
		t.Errorf("subscribed again: %+v, %v", s, err)
	}
	// The old one may be reported as alive by a relay that has not heard yet: it stays removed.
	c.report(outbox.Report{Outbox: outboxA, Subscriptions: []outbox.RegistrySubscription{{UID: uid, Topic: "t", Name: "s", Created: 1}}})
	_ = c.see()
	for _, x := range c.announced("t").Subscriptions {
		if (x.UID == uid) != x.Removed {
			t.Errorf("after a late report: %+v", x)
		}
	}
}

func TestOwnerCommandsAreIdempotentWhereSensible(t *testing.T) {
	t.Parallel()
	c := newCourt(t, memory.NewRegistry("owner-1"))
	ctx := t.Context()
	if _, err := c.owner.CreateTopic(ctx, "t", keyed()); !errors.Is(err, topics.ErrNotRunning) {
		t.Errorf("before the state was read: %v", err)
	}
	c.watch()
	if _, err := c.owner.CreateTopic(ctx, "t", keyed()); err != nil {
		t.Fatal(err)
	}
	version := c.head().Version
	if info, err := c.owner.CreateTopic(ctx, "t", keyed()); err != nil || info.Name != "t" || c.head().Version != version {
		t.Errorf("created again: %+v, %v", info, err)
	}
	if _, err := c.owner.CreateTopic(ctx, "t", outbox.TopicSettings{}); !errors.Is(err, topics.ErrTopicExists) {
		t.Errorf("with other settings: %v", err)
	}
	for _, bad := range []struct {
		name string
		s    outbox.TopicSettings
	}{{"a b", keyed()}, {"", keyed()}, {"x", outbox.TopicSettings{Delivery: "maybe"}}, {"x", outbox.TopicSettings{NoSubscribers: "explode"}}} {
		if _, err := c.owner.CreateTopic(ctx, bad.name, bad.s); !errors.Is(err, topics.ErrInvalid) {
			t.Errorf("create %q %+v: %v", bad.name, bad.s, err)
		}
	}
	first, err := c.owner.Subscribe(ctx, "t", "s")
	if err != nil {
		t.Fatal(err)
	}
	if s, err := c.owner.Subscribe(ctx, "t", "s"); err != nil || s != first {
		t.Errorf("subscribed again: %+v, %v", s, err)
	}
	if _, err := c.owner.Subscribe(ctx, "unknown", "s"); !errors.Is(err, topics.ErrUnknownTopic) || !strings.Contains(err.Error(), "twostep topics create unknown") {
		t.Errorf("subscribe to an unknown topic: %v", err)
	}
	if _, err := c.owner.Subscribe(ctx, "t", "a.b"); !errors.Is(err, topics.ErrInvalid) {
		t.Errorf("subscribe by a bad name: %v", err)
	}
	if err := c.owner.ForgetOutbox(ctx, "nobody"); !errors.Is(err, topics.ErrUnknownOutbox) {
		t.Errorf("forget nobody: %v", err)
	}
}

func TestOwnerRefusesToDeleteATopicInFlight(t *testing.T) {
	t.Parallel()
	c := newCourt(t, memory.NewRegistry("owner-1"))
	c.watch()
	c.declare(topics.Declaration{Topic: "t", Settings: keyed(), Subscription: "s"})
	_ = c.see()
	s := c.announced("t").Subscriptions[0]
	waiting := outbox.Report{Outbox: outboxA, Name: "shop", Topics: []string{"t"}, Subscriptions: []outbox.RegistrySubscription{s},
		Backlog: 7, WaitingFor: map[string]int64{s.UID: 7}, At: c.now.Add(-3 * time.Second).UnixMilli()}
	c.report(waiting)
	_ = c.see()
	_, err := c.owner.DeleteTopic(t.Context(), "t", false)
	if !errors.Is(err, topics.ErrInFlight) || !strings.Contains(err.Error(), "outbox shop ("+outboxA+") has at least 7 rows not released, reported 3s ago") {
		t.Errorf("delete in flight: %v", err)
	}
	left, err := c.owner.DeleteTopic(t.Context(), "t", true)
	if err != nil || len(left) != 1 || left[0].Rows != 7 {
		t.Errorf("forced: %+v, %v", left, err)
	}
	if got := c.announced("t"); !got.Deleted || !got.Subscriptions[0].Removed {
		t.Errorf("announced %+v", got)
	}
	if len(c.made) != 0 || len(c.owner.Topics()) != 0 {
		t.Errorf("left on the broker %v, topics %+v", c.made, c.owner.Topics())
	}
	// Relays still report it; it stays deleted. Made anew, it has its old subscriptions as removed ones.
	c.report(waiting)
	c.restart()
	c.watch()
	if !c.announced("t").Deleted {
		t.Error("a report brought the topic back")
	}
	if _, err := c.owner.CreateTopic(t.Context(), "t", keyed()); err != nil {
		t.Fatal(err)
	}
	if got := c.announced("t"); got.Deleted || len(got.Subscriptions) != 1 || !got.Subscriptions[0].Removed || !c.made["topic t"] {
		t.Errorf("made anew: %+v, %v", got, c.made)
	}
}

func TestSubscriptionIsActiveWhenEveryOutboxHasRecordedIt(t *testing.T) {
	t.Parallel()
	c := newCourt(t, memory.NewRegistry("owner-1"))
	c.watch()
	c.report(outbox.Report{Outbox: outboxA, Name: "shop", At: c.now.UnixMilli()})
	c.report(outbox.Report{Outbox: outboxB, Name: "bank", At: c.now.UnixMilli()})
	c.declare(topics.Declaration{Topic: "t", Settings: keyed(), Subscription: "s"})
	_ = c.see()
	state := func() topics.SubscriptionInfo {
		t.Helper()
		info, err := c.owner.Topic("t")
		if err != nil {
			t.Fatal(err)
		}
		return info.Subscriptions[0]
	}
	s := c.announced("t").Subscriptions[0]
	if got := state(); got.State != topics.Registered || len(got.MissingFrom) != 2 {
		t.Errorf("made: %+v", got)
	}
	for _, id := range []string{outboxA, outboxB} {
		if got := state(); got.State != topics.Registered {
			t.Errorf("before %s: %+v", id, got)
		}
		c.report(outbox.Report{Outbox: id, Subscriptions: []outbox.RegistrySubscription{s}, WaitingFor: map[string]int64{s.UID: 2}, At: c.now.UnixMilli()})
		_ = c.see()
	}
	if got := state(); got.State != topics.Active || got.Waiting != 4 {
		t.Errorf("recorded by all: %+v", got)
	}
	// A third outbox appears and dies; only forgetting it makes the subscription active again.
	const outboxC = "0c0c0c0c-0000-4000-8000-000000000003"
	c.report(outbox.Report{Outbox: outboxC, Name: "dead"})
	_ = c.see()
	if got := state(); got.State != topics.Registered || !slices.Equal(got.MissingFrom, []string{outboxC}) {
		t.Errorf("with an outbox that has not recorded it: %+v", got)
	}
	if err := c.owner.ForgetOutbox(t.Context(), outboxC); err != nil {
		t.Fatal(err)
	}
	_ = c.see()
	if got := state(); got.State != topics.Active || slices.Contains(c.head().Merged, outboxC) {
		t.Errorf("after forgetting: %+v, head %+v", got, c.head())
	}
	c.now = c.now.Add(90 * time.Second)
	var names []string
	for _, b := range c.owner.Outboxes() {
		names = append(names, fmt.Sprintf("%s:%t:%t:%s", b.Name, b.Forgotten, b.Report != nil, b.Age))
	}
	if want := []string{":false:true:1m30s", ":false:true:1m30s", "dead:true:false:0s"}; !slices.Equal(names, want) {
		t.Errorf("outboxes %q, want %q", names, want)
	}
}

// Two processes with one store: who comes second starts from what the first has stored.
func TestOwnersOfOneStoreDoNotOverwriteEachOther(t *testing.T) {
	t.Parallel()
	store := memory.NewRegistry("owner-1")
	a := newCourt(t, store)
	a.watch()
	b := newCourt(t, store)
	b.watch()
	if _, err := a.owner.CreateTopic(t.Context(), "one", keyed()); err != nil {
		t.Fatal(err)
	}
	if _, err := b.owner.CreateTopic(t.Context(), "two", keyed()); err != nil {
		t.Fatal(err)
	}
	if _, err := a.owner.Subscribe(t.Context(), "two", "s"); err == nil {
		t.Error("a knows of two without having looked") // it finds out by the conflict of its next change
	}
	if _, err := a.owner.CreateTopic(t.Context(), "three", keyed()); err != nil {
		t.Fatal(err)
	}
	if a.announced("two").Name != "two" {
		t.Error("a does not announce what b has stored")
	}
	if _, err := a.owner.Subscribe(t.Context(), "two", "s"); err != nil {
		t.Error(err)
	}
	reg, err := store.LoadRegistry(t.Context())
	if err != nil || len(reg.Topics) != 3 {
		t.Errorf("stored %+v, %v", reg, err)
	}
}

func TestMalformedStateIsIgnored(t *testing.T) {
	t.Parallel()
	c := newCourt(t, memory.NewRegistry("owner-1"))
	c.watch()
	for _, key := range []string{"registry.head", "registry.topic.t", "outbox.x", "declare.t.s", "declare.", "other"} {
		for _, value := range []string{"", "{", "null", "[]", `{"topic":"../x","name":" ","outbox":"y"}`, `{"topic":"a","subscription":"b"}`} {
			if err := c.owner.OnState(t.Context(), broker.StateEvent{Key: key, Value: []byte(value)}); err != nil {
				t.Errorf("%s = %s: %v", key, value, err)
			}
		}
	}
	if got := c.owner.Topics(); len(got) != 0 {
		t.Errorf("topics %+v", got)
	}
}

func FuzzOwnerState(f *testing.F) {
	f.Add("outbox.x", []byte(`{"outbox":"x","subscriptions":[{"uid":"u","topic":"t","name":"s"}],"topics":["t"]}`))
	f.Add("declare.t.s", []byte(`{"topic":"t","subscription":"s"}`))
	f.Add("registry.topic.t", []byte(`{"name":"t","version":9}`))
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		c := newCourt(t, memory.NewRegistry("owner-1"))
		c.watch()
		c.queue = append(c.queue, broker.StateEvent{Key: key, Value: value})
		_ = c.see()
	})
}

// TestOwnerAnswersAnOlderHead: a server that was stopped in the middle of an announcement puts an older head over ours when it goes
// on. Relays that start then must not be left with it.
func TestOwnerAnswersAnOlderHead(t *testing.T) {
	t.Parallel()
	c := newCourt(t, memory.NewRegistry("owner-1"))
	c.watch()
	c.declare(topics.Declaration{Topic: "bank.trans-in", Settings: keyed(), Subscription: "accounts"})
	_ = c.see()
	head := c.head()
	older := head
	older.Version--
	c.put(outbox.StateHead, older)
	_ = c.see()
	if got := c.head(); got.Version < head.Version {
		t.Errorf("the head is left at version %d, it was %d", got.Version, head.Version)
	}
}
