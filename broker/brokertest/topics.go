package brokertest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/broker"
)

func testAbsentTopic(t *testing.T, h Harness) {
	b, ctx := h.Connect(t), background(t)
	for i, err := range publish(t, b, messages("nobody", 1, 3)).errs {
		if !errors.Is(err, broker.ErrNoTopic) {
			t.Errorf("publish message %d: %v, want ErrNoTopic", i, err)
		}
	}
	if _, err := b.Positions(ctx, "nobody", nil); !errors.Is(err, broker.ErrNoTopic) {
		t.Errorf("Positions: %v, want ErrNoTopic", err)
	}
	if err := b.EnsureSubscription(ctx, broker.SubscriptionSpec{UID: uid(1), Topic: "nobody"}); !errors.Is(err, broker.ErrNoTopic) {
		t.Errorf("EnsureSubscription: %v, want ErrNoTopic", err)
	}
	if err := b.DeleteTopic(ctx, "nobody"); err != nil {
		t.Errorf("DeleteTopic: %v", err)
	}
	if err := b.DeleteSubscription(ctx, "nobody", uid(1)); err != nil {
		t.Errorf("DeleteSubscription: %v", err)
	}
}

func testEnsureIsIdempotent(t *testing.T, h Harness) {
	b, other, ctx := h.Connect(t), h.Connect(t), background(t)
	src := topicWith(t, b, "bank.trans-in", false)
	at := mustPublish(t, b, messages("bank.trans-in", 1, 5))
	for _, c := range []broker.Broker{b, other} {
		for _, retained := range []bool{false, true} {
			if err := c.EnsureTopic(ctx, broker.TopicSpec{Name: "bank.trans-in", Retained: retained}); err != nil {
				t.Fatal(err)
			}
		}
		for _, since := range []int64{0, time.Now().UnixNano()} {
			s := src.Subscription
			s.Since = since
			if err := c.EnsureSubscription(ctx, s); err != nil {
				t.Fatal(err)
			}
		}
	}
	if more := mustPublish(t, other, messages("bank.trans-in", 6, 6)); more[0].Stream != at[0].Stream {
		t.Errorf("incarnation %q became %q", at[0].Stream, more[0].Stream)
	}
	wantSeqs(t, read(t, other, src, nil).atLeast(6), 1, 6)
}

func testIncarnation(t *testing.T, h Harness) {
	b, other, ctx := h.Connect(t), h.Connect(t), background(t)
	topicWith(t, b, "again", false)
	old := mustPublish(t, b, messages("again", 1, 4))
	if err := b.DeleteTopic(ctx, "again"); err != nil {
		t.Fatal(err)
	}
	if err := publish(t, b, messages("again", 5, 5)).errs[0]; !errors.Is(err, broker.ErrNoTopic) {
		t.Fatalf("publish to the deleted topic: %v, want ErrNoTopic", err)
	}
	src := topicWith(t, other, "again", false)
	now := mustPublish(t, other, messages("again", 6, 6))
	if now[0].Stream == old[0].Stream || now[0].Stream == "" {
		t.Fatalf("the topic made anew has incarnation %q, the old one %q", now[0].Stream, old[0].Stream)
	}
	ps, err := b.Positions(ctx, "again", []string{src.Subscription.UID})
	if err != nil {
		t.Fatal(err)
	}
	if !ps.Passed(uid(1), old[3]) || ps.Passed(uid(1), now[0]) {
		t.Errorf("%+v: position %+v of the old topic is not passed, or %+v of the new one is", ps, old[3], now[0])
	}
}

func testPositions(t *testing.T, h Harness) {
	b, ctx := h.Connect(t), background(t)
	src := topicWith(t, b, "pos", false)
	uids := []string{uid(1), uid(2)}
	ps, err := b.Positions(ctx, "pos", uids)
	if err != nil {
		t.Fatal(err)
	}
	for i := range ps.First {
		if ps.First[i] != ps.Last[i]+1 {
			t.Errorf("empty partition %d: first %d, last %d", i, ps.First[i], ps.Last[i])
		}
	}
	if _, there := ps.Floor[uid(2)]; there || len(ps.Floor[uid(1)]) != len(ps.First) {
		t.Fatalf("floors %v: want one of %s and none of the absent %s", ps.Floor, uid(1), uid(2))
	}
	at := mustPublish(t, b, messages("pos", 1, 20))
	if ps, err = b.Positions(ctx, "pos", uids); err != nil {
		t.Fatal(err)
	}
	for i, p := range at {
		if ps.Stream != p.Stream || ps.First[p.Partition] > p.Offset || ps.Last[p.Partition] < p.Offset {
			t.Fatalf("position %+v does not lie in %+v", p, ps)
		}
		if ps.Passed(uid(1), p) {
			t.Fatalf("message %d is passed before anybody read it", i)
		}
		if !ps.Passed(uid(2), p) {
			t.Fatalf("message %d is not passed for a reader that does not exist", i)
		}
	}
	passed := func(upTo int) error {
		ps, err := b.Positions(ctx, "pos", uids)
		if err != nil {
			return err
		}
		for i, p := range at {
			if got, want := ps.Passed(uid(1), p), i < upTo; got != want {
				return fmt.Errorf("passed message %d: %v, want %v (%+v)", i+1, got, want, ps)
			}
		}
		return nil
	}
	hold := make(chan struct{})
	r := read(t, b, src, func(ds []broker.Delivery) error {
		if ds[0].Seq > 20 {
			<-hold
		}
		return nil
	})
	r.atLeast(20)
	eventually(t, func() error { return passed(20) })
	at = append(at, mustPublish(t, b, messages("pos", 21, 50))...)
	if err := passed(20); err != nil {
		t.Error(err)
	}
	close(hold)
	r.atLeast(50)
	eventually(t, func() error { return passed(50) })
	r.stop()
	if err := passed(50); err != nil {
		t.Error(err)
	}
	if err := b.DeleteSubscription(ctx, "pos", uid(1)); err != nil {
		t.Fatal(err)
	}
	if ps, err = b.Positions(ctx, "pos", uids); err != nil || len(ps.Floor) != 0 {
		t.Errorf("after the reader was deleted: floors %v, %v", ps.Floor, err)
	}
}

func testSubscriptionBeforeRun(t *testing.T, h Harness) {
	b := h.Connect(t)
	if err := b.EnsureTopic(background(t), broker.TopicSpec{Name: "early"}); err != nil {
		t.Fatal(err)
	}
	mustPublish(t, b, messages("early", 1, 10))
	src := topicWith(t, b, "early", false)
	mustPublish(t, b, messages("early", 11, 40))
	r := read(t, h.Connect(t), src, nil)
	wantSeqs(t, r.atLeast(30), 11, 40)
	for _, d := range r.deliveries() {
		if d.Redelivered {
			t.Fatalf("message %d is marked redelivered at its first delivery", d.Seq)
		}
	}
}

func testSubscriptionSince(t *testing.T, h Harness) {
	b, ctx := h.Connect(t), background(t)
	if err := b.EnsureTopic(ctx, broker.TopicSpec{Name: "since"}); err != nil {
		t.Fatal(err)
	}
	mustPublish(t, b, messages("since", 1, 10))
	// The broker's clock says what came before.
	src := topicWith(t, b, "since", false)
	mustPublish(t, b, messages("since", 11, 20))
	ds := read(t, b, src, nil).atLeast(10)
	later := broker.SubscriptionSpec{UID: uid(2), Topic: "since", Since: ds[0].Stored.UnixNano()}
	if err := b.EnsureSubscription(ctx, later); err != nil {
		t.Fatal(err)
	}
	wantSeqs(t, read(t, b, broker.Source{Subscription: later}, nil).atLeast(10), 11, 20)
	// Consume makes the reader by itself, too.
	first := broker.SubscriptionSpec{UID: uid(3), Topic: "since", Since: 1}
	wantSeqs(t, read(t, b, broker.Source{Subscription: first}, nil).atLeast(20), 1, 20)
}
