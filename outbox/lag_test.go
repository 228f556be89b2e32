package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/outbox"
	outboxmem "github.com/twostep-mq/twostep/outbox/outboxtest/memory"
)

// refusing is a broker that has an error for one topic or inbox, as one without the permission, or whose stream has no leader.
type refusing struct {
	broker.Broker
	positions, ensure, send, publish string
	err                              error
}

func (b *refusing) Positions(ctx context.Context, topic string, uids []string) (broker.Positions, error) {
	if topic == b.positions {
		return broker.Positions{}, b.err
	}
	return b.Broker.Positions(ctx, topic, uids)
}

func (b *refusing) EnsureTopic(ctx context.Context, t broker.TopicSpec) error {
	if t.Name == b.ensure {
		return b.err
	}
	return b.Broker.EnsureTopic(ctx, t)
}

func (b *refusing) Send(ctx context.Context, inbox string, ms []*broker.Message) (int, error) {
	if inbox == b.send {
		return 0, b.err
	}
	return b.Broker.Send(ctx, inbox, ms)
}

func (b *refusing) Publish(ctx context.Context, ms []*broker.Message, done func(int, broker.Position, error)) {
	for i, m := range ms {
		if m.Topic == b.publish {
			done(i, broker.Position{}, b.err)
			continue
		}
		b.Broker.Publish(ctx, []*broker.Message{m}, func(_ int, p broker.Position, err error) { done(i, p, err) })
	}
}

// refused is a relay on a broker that will refuse something.
func (g *rig) refused(cfg outbox.RelayConfig) (*runner, *refusing) {
	r := g.relayWith(cfg)
	b := &refusing{Broker: r.conn, err: errors.New("refused")}
	cfg.Now = func() time.Time { return g.now }
	r.Relay = outbox.NewRelay(g.store, b, cfg)
	return r, b
}

// TestOneRefusalKeepsNobodyElseWaiting: what the broker refuses for one topic or one inbox, for ever, does not keep another's
// rows from being sent again.
func TestOneRefusalKeepsNobodyElseWaiting(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"positions", "topic", "inbox"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			g := newRig(t, outboxmem.Config{})
			a, b := g.reader("a", "first"), g.reader("b", "second")
			a.uid, b.uid = min(a.uid, b.uid), max(a.uid, b.uid) // a is looked at first
			g.announce(g.topic("a", a), g.topic("b", b))
			r, refuses := g.refused(outbox.RelayConfig{Owner: "r"})
			r.run(time.Second)
			g.commit(g.message("a", "", "a1"), g.message("b", "", "b1"))
			r.run(time.Second)
			a.mute, b.mute = true, true
			a.read()
			b.read() // their receipts are lost
			a.mute, b.mute = false, false
			left := []string{"a1"}
			switch what {
			case "positions":
				refuses.positions = "a"
			case "topic":
				refuses.ensure = "a"
				g.must(g.hands.DeleteTopic(g.ctx, "a"))
				g.commit(g.message("a", "", "a2"))
				left = []string{"a2"} // nothing takes it; a1 needs no stream
			case "inbox":
				refuses.send = outbox.SubscriptionInbox(a.uid)
			}
			r.run(10*time.Second, a, b)
			g.demandWaiting(left...)
		})
	}
}

// TestNoSpinWhileTheBrokerIsSilent: with all the room taken by messages that are not acknowledged there is nothing to do.
func TestNoSpinWhileTheBrokerIsSilent(t *testing.T) {
	t.Parallel()
	g := newRig(t, outboxmem.Config{})
	g.announce(g.topic("pay", g.reader("pay", "s")))
	r := g.relayWith(outbox.RelayConfig{Owner: "r", Batch: 10})
	r.run(time.Second)
	for i := range 20 {
		g.commit(g.message("pay", "", fmt.Sprint(i)))
	}
	g.must(r.Ring(g.ctx, ""))
	g.must(r.step())
	g.demandRest(r, 10*time.Second)
}

// demandRest runs the relay, which nothing wakes, and demands that it sleeps nearly all the time.
func (g *rig) demandRest(r *runner, d time.Duration) {
	g.t.Helper()
	rounds, most := 0, int(d/time.Second)*10
	for until := g.now.Add(d); g.now.Before(until); rounds++ {
		next, err := r.Step(g.ctx)
		g.must(err)
		g.now = next
		if rounds > most {
			g.t.Fatalf("more than %d rounds in %v", most, d)
		}
		g.pass(time.Microsecond) // the round's own time
	}
}

// TestNoSpinBehindAHeldRow: a row that the broker can never take holds its key; however many rows wait behind it, the relay
// rests, and others go on.
func TestNoSpinBehindAHeldRow(t *testing.T) {
	t.Parallel()
	for _, why := range []error{broker.ErrTooLarge, broker.ErrInvalid} {
		g := newRig(t, outboxmem.Config{})
		a, b := g.reader("a", "first"), g.reader("b", "second")
		g.announce(g.topic("a", a), g.topic("b", b))
		r, refuses := g.refused(outbox.RelayConfig{Owner: "r", Batch: 20})
		refuses.publish, refuses.err = "a", why
		r.run(time.Second)
		g.commit(g.message("a", "k", "a1"))
		for range 6000 {
			g.commit(g.message("a", "k", "behind"))
		}
		r.run(40*time.Second, a, b)
		g.commit(g.message("b", "", "b1"))
		r.run(2*time.Second, a, b)
		b.demandExecuted("b1")
		if n := len(g.waiting()); n != 6001 {
			t.Errorf("%d rows wait, want 6001", n)
		}
		g.demandRest(r, 10*time.Second)
	}
}

// TestAFailingTopicDoesNotSlowOthers: a topic that the broker does not take is tried again after a pause, the others have none.
func TestAFailingTopicDoesNotSlowOthers(t *testing.T) {
	t.Parallel()
	g := newRig(t, outboxmem.Config{})
	a, b := g.reader("a", "first"), g.reader("b", "second")
	g.announce(g.topic("a", a), g.topic("b", b))
	r, refuses := g.refused(outbox.RelayConfig{Owner: "r"})
	refuses.publish, refuses.err = "a", broker.ErrFull
	r.run(time.Second, a, b)
	for range 1500 { // more than there is room for
		g.commit(g.message("a", "", "a"))
	}
	r.run(3*time.Second, a, b)
	for i := range 5 {
		g.commit(g.message("b", "", fmt.Sprint(i)))
		r.run(100*time.Millisecond, a, b)
		if len(b.executed) != i+1 {
			t.Fatalf("100 ms after its commit message %d of another topic was not executed", i)
		}
	}
	refuses.publish = ""
	r.run(5*time.Second, a, b)
	g.demandWaiting()
}

// TestHotKeyGoesOnWithEachAcknowledgement: many rows of one key wait. Each goes out when its predecessor is acknowledged, however many
// there are, and other keys between them are not held back.
func TestHotKeyGoesOnWithEachAcknowledgement(t *testing.T) {
	t.Parallel()
	g := newRig(t, outboxmem.Config{})
	sub := g.reader("pay", "s")
	g.announce(g.topic("pay", sub))
	r := g.relay("r")
	r.run(time.Second, sub)
	for i := range 20_000 {
		g.commit(g.message("pay", "hot", fmt.Sprint("hot ", i)))
	}
	g.commit(g.message("pay", "cold", "cold"))
	for n := 0; !sub.done["cold"] && n < 200; n++ {
		r.run(50*time.Millisecond, sub)
		for _, name := range sub.executed {
			sub.done[name] = true
		}
	}
	if !sub.done["cold"] {
		t.Error("another key is held back")
	}
	before := len(sub.executed)
	r.run(2*time.Second, sub) // 40 rounds
	if n := len(sub.executed) - before; n < 35 {
		t.Errorf("%d rows of the key in 40 rounds", n)
	}
}
