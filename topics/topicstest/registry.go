package topicstest

import (
	"errors"
	"fmt"
	"reflect"
	"sync/atomic"
	"testing"

	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

// RegistryHarness makes registries for the suite.
type RegistryHarness struct {
	// Open makes a new registry; again opens the same one once more, as another process would.
	Open func(t *testing.T) (r topics.RegistryStore, again func(t *testing.T) topics.RegistryStore)
}

// RunRegistry runs the suite for topics.RegistryStore.
func RunRegistry(t *testing.T, h RegistryHarness) {
	t.Run("a new registry", func(t *testing.T) {
		r, again := h.Open(t)
		got := load(t, r)
		if len(got.Owner) != 36 || got.Version != 0 || len(got.Topics) != 0 || len(got.Outboxes) != 0 {
			t.Fatalf("%+v", got)
		}
		if other := load(t, again(t)); other.Owner != got.Owner {
			t.Fatalf("owner is %s and %s", got.Owner, other.Owner)
		}
		another, _ := h.Open(t)
		if load(t, another).Owner == got.Owner {
			t.Fatal("two registries have one owner")
		}
	})
	t.Run("a change comes back, the rest stays", func(t *testing.T) { registryRoundTrip(t, h) })
	t.Run("a stale change writes nothing", func(t *testing.T) {
		r, _ := h.Open(t)
		must(t, r.ApplyRegistry(testContext(t), 0, topics.RegistryChange{Version: 3, Topics: []outbox.RegistryTopic{topic("a", 3)}}))
		for _, from := range []int64{0, 2, 4} {
			err := r.ApplyRegistry(testContext(t), from, topics.RegistryChange{Version: 9, Topics: []outbox.RegistryTopic{topic("b", 9)},
				Outboxes: []topics.RegistryOutbox{{UUID: newID(), Name: "x"}}})
			if !errors.Is(err, topics.ErrConflict) {
				t.Errorf("from %d: %v, want ErrConflict", from, err)
			}
		}
		if got := load(t, r); got.Version != 3 || len(got.Topics) != 1 || len(got.Outboxes) != 0 {
			t.Errorf("%+v", got)
		}
		if err := r.ApplyRegistry(testContext(t), 3, topics.RegistryChange{Version: 3}); err == nil {
			t.Error("a change that does not raise the version was accepted")
		}
	})
	t.Run("of concurrent changes one wins a version", func(t *testing.T) { registryRace(t, h) })
	t.Run("it only grows", func(t *testing.T) { registryGrows(t, h) })
}

func load(t *testing.T, r topics.RegistryStore) topics.Registry {
	t.Helper()
	got, err := r.LoadRegistry(testContext(t))
	must(t, err)
	return got
}

func topic(name string, version int64, subs ...outbox.RegistrySubscription) outbox.RegistryTopic {
	for i := range subs {
		subs[i].Topic = name
	}
	return outbox.RegistryTopic{
		Name: name, TopicSettings: outbox.TopicSettings{Delivery: outbox.DeliveryConfirmed, NoSubscribers: outbox.NoSubscribersHold},
		Version: version, Subscriptions: subs,
	}
}

func registryRoundTrip(t *testing.T, h RegistryHarness) {
	r, again := h.Open(t)
	ctx := testContext(t)
	a := topic("bank.a", 1, outbox.RegistrySubscription{UID: uidA, Name: "accounts", Created: 1_800_000_000_000_000_001})
	a.Keyed = true
	b := topic("bank.b", 1)
	b.Delivery, b.NoSubscribers = outbox.DeliveryBroker, outbox.NoSubscribersDrop
	boxes := []topics.RegistryOutbox{{UUID: uidA, Name: "a"}, {UUID: uidB, Name: "b"}}
	must(t, r.ApplyRegistry(ctx, 0, topics.RegistryChange{Version: 1, Topics: []outbox.RegistryTopic{a, b}, Outboxes: boxes}))
	got := load(t, again(t))
	want := topics.Registry{Owner: got.Owner, Version: 1, Topics: []outbox.RegistryTopic{a, b}, Outboxes: boxes}
	sameRegistry(t, got, want)

	// A subscription is removed and made anew under its name; a topic is deleted; an outbox is forgotten. In one change, whatever
	// the order.
	a.Version, b.Version, b.Deleted = 5, 5, true
	a.Subscriptions = []outbox.RegistrySubscription{
		{UID: uidB, Topic: a.Name, Name: "accounts", Created: 1_800_000_000_000_000_002},
		{UID: uidA, Topic: a.Name, Name: "accounts", Created: 1_800_000_000_000_000_001, Removed: true},
	}
	boxes[1].Forgotten = true
	must(t, r.ApplyRegistry(ctx, 1, topics.RegistryChange{Version: 5, Topics: []outbox.RegistryTopic{a, b}, Outboxes: boxes[1:]}))
	want.Version, want.Topics = 5, []outbox.RegistryTopic{a, b}
	sameRegistry(t, load(t, r), want)
}

// sameRegistry compares without looking at the order.
func sameRegistry(t *testing.T, got, want topics.Registry) {
	t.Helper()
	if got.Version != want.Version || len(got.Topics) != len(want.Topics) || len(got.Outboxes) != len(want.Outboxes) {
		t.Fatalf("got  %+v\nwant %+v", got, want)
	}
	byName := map[string]outbox.RegistryTopic{}
	for _, topic := range got.Topics {
		byName[topic.Name] = topic
	}
	for _, topic := range want.Topics {
		g := byName[topic.Name]
		subs := map[string]outbox.RegistrySubscription{}
		for _, s := range g.Subscriptions {
			subs[s.UID] = s
		}
		for _, s := range topic.Subscriptions {
			if subs[s.UID] != s {
				t.Errorf("subscription %+v, want %+v", subs[s.UID], s)
			}
		}
		if len(subs) != len(topic.Subscriptions) {
			t.Errorf("%s has %d subscriptions, want %d", topic.Name, len(subs), len(topic.Subscriptions))
		}
		g.Subscriptions = topic.Subscriptions
		if !reflect.DeepEqual(g, topic) {
			t.Errorf("topic %+v, want %+v", g, topic)
		}
	}
	boxes := map[string]topics.RegistryOutbox{}
	for _, b := range got.Outboxes {
		boxes[b.UUID] = b
	}
	for _, b := range want.Outboxes {
		if boxes[b.UUID] != b {
			t.Errorf("outbox %+v, want %+v", boxes[b.UUID], b)
		}
	}
}

func registryRace(t *testing.T, h RegistryHarness) {
	r, again := h.Open(t)
	stores := []topics.RegistryStore{r, again(t)}
	ctx := testContext(t)
	for from := range int64(5) {
		var won atomic.Int32
		atOnce(4, func(i int) {
			err := stores[i%2].ApplyRegistry(ctx, from, topics.RegistryChange{Version: from + 1,
				Topics: []outbox.RegistryTopic{topic(fmt.Sprintf("t%d.%d", from, i), from+1)}})
			if err == nil {
				won.Add(1)
			} else if !errors.Is(err, topics.ErrConflict) {
				t.Error(err)
			}
		})
		if got := load(t, r); won.Load() != 1 || len(got.Topics) != int(from)+1 {
			t.Fatalf("%d won, %d topics", won.Load(), len(got.Topics))
		}
	}
}

func registryGrows(t *testing.T, h RegistryHarness) {
	r, _ := h.Open(t)
	ctx := testContext(t)
	sub := outbox.RegistrySubscription{UID: uidA, Name: "accounts", Created: 1}
	must(t, r.ApplyRegistry(ctx, 0, topics.RegistryChange{Version: 1, Topics: []outbox.RegistryTopic{topic("a", 1, sub)}}))
	sub.Removed = true
	must(t, r.ApplyRegistry(ctx, 1, topics.RegistryChange{Version: 2, Topics: []outbox.RegistryTopic{topic("a", 2, sub)}}))
	for name, bad := range map[string]outbox.RegistryTopic{
		"a removed subscription comes back":  topic("a", 3, outbox.RegistrySubscription{UID: uidA, Name: "accounts", Created: 1}),
		"a uid goes to another subscription": topic("a", 3, outbox.RegistrySubscription{UID: uidA, Name: "audit", Created: 1, Removed: true}),
		"a uid goes to another topic":        topic("b", 3, outbox.RegistrySubscription{UID: uidA, Name: "accounts", Created: 1, Removed: true}),
		"one name twice": topic("a", 3, outbox.RegistrySubscription{UID: uidB, Name: "x", Created: 2},
			outbox.RegistrySubscription{UID: newID(), Name: "x", Created: 3}),
	} {
		if err := r.ApplyRegistry(ctx, 2, topics.RegistryChange{Version: 3, Topics: []outbox.RegistryTopic{bad}}); err == nil || errors.Is(err, topics.ErrConflict) {
			t.Errorf("%s: %v, want an error of its own", name, err)
		}
	}
	if got := load(t, r); got.Version != 2 || len(got.Topics) != 1 || !got.Topics[0].Subscriptions[0].Removed {
		t.Errorf("%+v", got)
	}
}
