package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/outbox"
	outboxmem "github.com/twostep-mq/twostep/outbox/outboxtest/memory"
)

// TestReceiptsUnderWayAreWaitedFor: a subscription has passed the rows, and its receipts lie in the inbox. Nothing is sent again.
func TestReceiptsUnderWayAreWaitedFor(t *testing.T) {
	t.Parallel()
	g := newRig(t, outboxmem.Config{})
	sub := g.reader("pay", "accounts")
	g.announce(g.topic("pay", sub))
	r := g.relay("r1")
	r.run(time.Second)
	for i := range 200 {
		g.commit(g.message("pay", "", fmt.Sprint("m", i)))
		_ = r.Ring(g.ctx, "")
		g.must(r.step())
		g.server.PublishAll()
		sub.read()
		g.pass(20 * time.Millisecond)
	}
	r.run(3*time.Second, sub)
	g.demandWaiting()
	if sub.duplicates > 0 {
		t.Errorf("%d messages were sent again although their receipts were there", sub.duplicates)
	}
}

// TestZombieRelayWritesNothing: a relay that slept past its lease and wakes up in the middle of a round.
func TestZombieRelayWritesNothing(t *testing.T) {
	t.Parallel()
	g := newRig(t, outboxmem.Config{})
	var hook func()
	g.dbOf = func(s outbox.RelayStore) outbox.RelayStore { return between{s, &hook} }
	sub := g.reader("pay", "accounts")
	g.announce(g.topic("pay", sub))
	zombie := g.relay("zombie")
	g.commit(g.message("pay", "", "m"))
	zombie.run(300 * time.Millisecond)
	epoch := g.store.Owner().Epoch
	heir := g.relay("heir")
	_ = heir.step()
	woke := false
	hook = func() { // the zombie sleeps here, for a lease
		g.pass(6 * time.Second)
		_ = heir.Ring(g.ctx, "")
		g.must(heir.step())
		if !heir.Leads() {
			t.Error("nobody took over")
		}
		woke = true
	}
	commits := -1
	for range 20 {
		g.pass(100 * time.Millisecond)
		_ = zombie.Ring(g.ctx, "")
		err := zombie.step()
		if woke && commits < 0 {
			commits = g.store.Commits()
		}
		if woke && errors.Is(err, outbox.ErrLeaseLost) {
			break
		}
	}
	if g.store.Owner().Epoch != epoch+1 || zombie.Leads() {
		t.Fatalf("lease %+v, the zombie leads: %v", g.store.Owner(), zombie.Leads())
	}
	if n := g.store.Commits(); n != commits {
		t.Errorf("%d checkpoints after the takeover by the zombie", n-commits)
	}
}

// TestReceiptsAreSettledWithTheirCheckpoint: a relay is killed after it has read receipts and before it has written what they say. The
// next one finds them; nothing is sent again.
func TestReceiptsAreSettledWithTheirCheckpoint(t *testing.T) {
	t.Parallel()
	g := newRig(t, outboxmem.Config{})
	sub := g.reader("pay", "accounts")
	g.announce(g.topic("pay", sub))
	r1 := g.relay("r1")
	g.commit(g.message("pay", "", "a"), g.message("pay", "", "b"))
	r1.run(time.Second)
	sub.read()
	commits := g.store.Commits()
	g.must(r1.step()) // it reads the receipts; what they say is gathered for a while
	if n := g.server.Waiting(outbox.Inbox(g.uuid)); n == 0 || g.store.Commits() != commits {
		t.Fatalf("%d receipts in the inbox after %d checkpoints", n, g.store.Commits()-commits)
	}
	r1.kill()
	r2 := g.relay("r2")
	r2.run(takeoverTime+time.Second, sub)
	g.demandWaiting()
	if sub.duplicates > 0 {
		t.Errorf("%d messages were sent again", sub.duplicates)
	}
}

// TestOneUnacknowledgedMessageOfAKey: what may be stored twice, or late, is never overtaken by its successor.
func TestOneUnacknowledgedMessageOfAKey(t *testing.T) {
	t.Parallel()
	g := newRig(t, outboxmem.Config{})
	sub := g.reader("pay", "accounts")
	g.announce(g.topic("pay", sub))
	r := g.relay("r1")
	for i := range 4 {
		g.commit(g.message("pay", "k", fmt.Sprint("k", i)), g.message("pay", "l", fmt.Sprint("l", i)), g.message("pay", "", fmt.Sprint("m", i)))
	}
	for range 20 {
		_ = r.Ring(g.ctx, "")
		g.must(r.step())
		g.pass(10 * time.Millisecond)
		under := map[string]int{}
		for _, m := range g.server.UnderWay() {
			under[m.Key]++
		}
		if under["k"] > 1 || under["l"] > 1 {
			t.Fatalf("under way by key: %v", under)
		}
		if ps := g.server.Publishing(); len(ps) > 0 {
			p := ps[0]
			p.Store()
			p.Ack()
		}
	}
	r.run(time.Second, sub)
	g.demandWaiting()
}

// flaky fails beats while it is told to.
type flaky struct {
	outbox.RelayStore
	fail *bool
}

func (f flaky) Beat(ctx context.Context, l outbox.Lease, resign bool) (outbox.Lease, error) {
	if *f.fail {
		return outbox.Lease{}, errors.New("connection reset")
	}
	return f.RelayStore.Beat(ctx, l, resign)
}

// TestWhatArrivesDuringAFailedBeatIsNotLost: acknowledgements and a new registry arrive while the database does not answer.
func TestWhatArrivesDuringAFailedBeatIsNotLost(t *testing.T) {
	t.Parallel()
	g := newRig(t, outboxmem.Config{})
	var fail bool
	g.dbOf = func(s outbox.RelayStore) outbox.RelayStore { return flaky{s, &fail} }
	first, second := g.reader("pay", "first"), g.reader("pay", "second")
	g.announce(g.topic("pay", first))
	r := g.relay("r1")
	g.commit(g.message("pay", "", "a"))
	g.must(r.step())
	fail = true
	g.pass(2 * time.Second)
	g.announce(g.topic("pay", first, second))
	g.server.PublishAll()
	if err := r.step(); err == nil {
		t.Fatal("no beat was due")
	}
	fail = false
	r.run(2*time.Second, first)
	if _, ok := g.store.Recorded()[second.uid]; !ok {
		t.Error("the new subscription was not recorded")
	}
	r.run(5*time.Second, first, second)
	g.demandWaiting()
	if first.duplicates+second.duplicates > 0 {
		t.Errorf("%d and %d duplicates: acknowledgements were lost", first.duplicates, second.duplicates)
	}
}

// TestOneKeyDoesNotHoldBackOthers: a failed send of a key's first message, and more rows of that key than there is room for.
func TestOneKeyDoesNotHoldBackOthers(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]outbox.RelayConfig{
		"room for rows":  {Owner: "r1", Batch: 4},
		"room for bytes": {Owner: "r1", BatchBytes: 16},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newRig(t, outboxmem.Config{})
			sub := g.reader("pay", "accounts")
			g.announce(g.topic("pay", sub))
			r := g.relayWith(cfg)
			g.commit(g.message("pay", "hot", "hot0"))
			r.run(100 * time.Millisecond)
			if err := r.step(); err != nil {
				t.Fatal(err)
			}
			for i := range 10 {
				g.commit(g.message("pay", "hot", fmt.Sprint("hot", i+1)))
			}
			g.commit(g.message("pay", "cold", "cold"))
			_ = r.Ring(g.ctx, "")
			g.pass(10 * time.Millisecond)
			g.must(r.step())
			for _, p := range g.server.Publishing() {
				p.Fail(broker.ErrFull)
			}
			r.run(10*time.Second, sub)
			g.demandWaiting()
			hot := slices.DeleteFunc(slices.Clone(sub.executed), func(n string) bool { return n == "cold" })
			if want := append([]string{"hot0"}, names(10, "hot%d")...); !slices.Equal(hot, want) {
				t.Errorf("executed %v, want %v", hot, want)
			}
		})
	}
}
