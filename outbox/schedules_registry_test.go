package outbox_test

import (
	"testing"
	"time"

	"github.com/twostep-mq/twostep/outbox"
	outboxmem "github.com/twostep-mq/twostep/outbox/outboxtest/memory"
)

// TestSchedule6StaleRegistryAndAWipedBroker: a subscription that the outbox has recorded is unknown to the relay that takes over, and
// the broker that announced it is wiped.
func TestSchedule6StaleRegistryAndAWipedBroker(t *testing.T) {
	t.Parallel()
	g := newRig(t, outboxmem.Config{})
	first, second := g.reader("pay", "first"), g.reader("pay", "second")
	g.announce(g.topic("pay", first))
	stale := g.relay("stale")
	for ev, ok := stale.state.Next(); ok; ev, ok = stale.state.Next() {
		stale.Announce(ev) // it hears of the first version, and never of another
	}
	stale.deaf = true
	r := g.relay("r1")
	g.announce(g.topic("pay", first, second))
	r.run(time.Second)
	if g.store.Recorded()[second.uid].Subscription.UID != second.uid {
		t.Fatal("the second subscription was not recorded")
	}
	r.kill()
	g.server.Wipe()
	g.commit(g.message("pay", "", "m"))
	stale.run(takeoverTime+3*time.Second, first)
	first.demandExecuted("m")
	g.demandWaiting("m")

	stale.deaf = false
	g.announce(g.topic("pay", first, second))
	stale.run(10*time.Second, first, second)
	second.demandExecuted("m")
	g.demandWaiting()
}

// TestSchedule6EmptyRegistryReleasesNothing: the server comes back with an empty registry, a new one, and says so.
func TestSchedule6EmptyRegistryReleasesNothing(t *testing.T) {
	t.Parallel()
	for name, head := range map[string]outbox.RegistryHead{
		"another owner":                   {Owner: "other", Version: 50},
		"a lower version":                 {Owner: "owner", Version: 0},
		"another owner that took us over": {Owner: "other", Version: 50, Merged: []string{"BOX"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newRig(t, outboxmem.Config{})
			for i := range head.Merged {
				head.Merged[i] = g.uuid
			}
			sub, other := g.reader("pay", "accounts"), g.reader("pay", "other")
			g.announce(g.topic("pay", sub, other))
			r1 := g.relay("r1")
			r1.run(time.Second)
			r1.kill()
			g.server.Wipe()
			empty := g.topic("pay")
			empty.NoSubscribers = outbox.NoSubscribersDrop
			g.announceAs(head, empty)
			g.commit(g.message("pay", "", "m"))
			r2 := g.relay("r2")
			r2.run(takeoverTime+5*time.Second, other)
			other.demandExecuted("m")
			g.demandWaiting("m")
			if head.Merged == nil {
				g.announce(g.topic("pay", sub, other))
			}
			r2.run(10*time.Second, sub, other)
			sub.demandExecuted("m")
			g.demandWaiting()
		})
	}
}

// TestSchedule6RestoredOutbox: the tables are older than a subscription that had been active. Nothing is released before the registry
// has said so again.
func TestSchedule6RestoredOutbox(t *testing.T) {
	t.Parallel()
	g := newRig(t, outboxmem.Config{})
	first, second := g.reader("pay", "first"), g.reader("pay", "second")
	g.announce(g.topic("pay", first))
	r1 := g.relay("r1")
	r1.run(time.Second)
	backup := g.store.Backup()
	g.announce(g.topic("pay", first, second))
	r1.run(time.Second)
	r1.kill()
	g.store.Restore(backup)
	g.commit(g.message("pay", "", "m"))
	r2 := g.relay("r2")
	r2.deaf = true
	r2.run(takeoverTime+3*time.Second, first)
	first.demandExecuted("m")
	g.demandWaiting("m")
	r2.deaf = false
	r2.run(5*time.Second, first)
	g.demandWaiting("m")
	r2.run(5*time.Second, first, second)
	second.demandExecuted("m")
	g.demandWaiting()
}

// TestSchedule6SubscriptionOwnsWhatIsUnreleased: one that is registered while a row waits owns it.
func TestSchedule6SubscriptionOwnsWhatIsUnreleased(t *testing.T) {
	t.Parallel()
	g := newRig(t, outboxmem.Config{})
	first, second := g.reader("pay", "first"), g.reader("pay", "second")
	g.announce(g.topic("pay", first))
	r := g.relay("r1")
	g.commit(g.message("pay", "k", "m1"), g.message("pay", "k", "m2"))
	r.run(time.Second)
	g.pass(time.Second)
	second.created = g.now.UnixNano()
	g.announce(g.topic("pay", first, second))
	r.run(time.Second, first)
	first.demandExecuted("m1", "m2")
	g.demandWaiting("m1", "m2")
	r.run(10*time.Second, first, second)
	second.demandExecuted("m1", "m2")
	g.demandWaiting()
}
