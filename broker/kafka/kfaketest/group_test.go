package kfaketest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/twostep-mq/twostep/broker"
)

// Members join and leave while 10,000 keyed messages come: order per key holds, none is lost, and nothing is settled twice: whoever hands a
// partition over has committed what it settled.
func TestMembersComeAndGo(t *testing.T) {
	t.Parallel()
	f := startCluster(t, 1)
	cfg := f.config()
	cfg.Partitions = 6
	cfg.SessionTimeout = 3 * time.Second // nobody is to be put out because the machine is busy
	b := f.connect(t, cfg)
	src := mustEnsure(t, b, "t")
	src.MaxBatch = 50
	log := &deliveries{}
	const n = 10_000
	published := make(chan struct{})
	go func() {
		defer close(published)
		pace := time.NewTicker(20 * time.Millisecond) // so that it takes about as long as the members' coming and going
		defer pace.Stop()
		for from := 1; from <= n; from += 100 {
			var ms []*broker.Message
			for i := from; i < from+100; i++ {
				ms = append(ms, message("t", fmt.Sprint("k", i%31), i))
			}
			if _, errs := publish(t, b, ms); errors.Join(errs...) != nil {
				t.Error(errors.Join(errs...))
			}
			<-pace.C
		}
	}()
	random := rand.New(rand.NewPCG(1, 2))
	readers := []*reading{read(t, f.connect(t, cfg), src, log)}
	changes := 0
	for busy := true; busy; changes++ {
		select {
		case <-published:
			busy = false
		case <-time.After(time.Duration(50+random.IntN(150)) * time.Millisecond):
		}
		if len(readers) < 2 || len(readers) < 4 && random.IntN(2) == 0 {
			readers = append(readers, read(t, f.connect(t, cfg), src, log))
			continue
		}
		i := random.IntN(len(readers))
		readers[i].stop()
		readers = append(readers[:i], readers[i+1:]...)
	}
	readers[0].until(n)
	readers[0].wantOrder()
	if again := log.again(); again > 0 {
		t.Errorf("%d messages were settled twice", again)
	}
	t.Logf("%d joins and leaves", changes)
}

// Partitions are added to a topic in use: readers that run find them, and a reader that never ran gets everything, too.
func TestPartitionsAreAdded(t *testing.T) {
	t.Parallel()
	f := startCluster(t, 1)
	b := f.connect(t, f.config())
	src := mustEnsure(t, b, "t")
	never := src
	never.Subscription.UID = "0198bbbb-0000-7000-8000-000000000002"
	if err := b.EnsureSubscription(t.Context(), never.Subscription); err != nil {
		t.Fatal(err)
	}
	r := read(t, f.connect(t, f.config()), src, nil)
	keyed := func(from, to int) []*broker.Message {
		var ms []*broker.Message
		for i := from; i <= to; i++ {
			ms = append(ms, message("t", fmt.Sprint("k", i%5), i))
		}
		return ms
	}
	mustPublish(t, b, keyed(1, 50))
	addPartitions(t, f, "twostep.t.t", 5)
	eventually(t, func() error {
		ps, err := b.Positions(t.Context(), "t", []string{src.Subscription.UID})
		if err == nil && (len(ps.First) != 5 || len(ps.Floor[src.Subscription.UID]) != 5) {
			err = fmt.Errorf("positions %+v", ps)
		}
		return err
	})
	at := mustPublish(t, b, keyed(51, 100))
	used := map[int]bool{}
	for _, p := range at {
		used[p.Partition] = true
	}
	if len(used) < 2 {
		t.Errorf("all messages lie in partitions %v", used)
	}
	r.until(100)
	late := read(t, f.connect(t, f.config()), never, nil)
	late.until(100)
	eventually(t, func() error {
		ps, err := b.Positions(t.Context(), "t", []string{src.Subscription.UID})
		for _, p := range at {
			if err == nil && !ps.Passed(src.Subscription.UID, p) {
				err = fmt.Errorf("%+v is not passed: %+v", p, ps)
			}
		}
		return err
	})
}

func addPartitions(t *testing.T, f *fixture, topic string, count int) {
	t.Helper()
	client := f.kafkaClient(t)
	answer, err := client.CreatePartitions(t.Context(), createPartitions(topic, count))
	if err != nil {
		t.Fatal(err)
	}
	if err := answer.Errors[topic]; err != nil {
		t.Fatal(err)
	}
}

// The broker puts a reader out of its group while the handler runs, as after a long pause of the process: what the handler did
// counts for nobody but its database, and another reader gets the messages, marked.
func TestPutOutOfTheGroup(t *testing.T) {
	t.Parallel()
	f := startCluster(t, 1)
	b := f.connect(t, f.config())
	src := mustEnsure(t, b, "t")
	in, out := make(chan struct{}), make(chan struct{})
	var once atomic.Bool
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	first := make(chan error, 1)
	victim := f.connect(t, f.config())
	go func() {
		first <- victim.Consume(ctx, src, func(context.Context, []broker.Delivery) error {
			if once.CompareAndSwap(false, true) {
				close(in)
				<-out
			}
			return nil
		})
	}()
	at := mustPublish(t, b, messages("t", "k", 1, 10))
	<-in
	// Its heartbeats are answered so from now on, but for nobody else's: there is nobody else yet.
	h := f.server().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Heartbeat}, Err: kerr.UnknownMemberID, Count: 1})
	wait, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	if err := h.Wait(wait, 1); err != nil {
		t.Fatal(err)
	}
	// No heart beats any more: the session ends, and the messages go to another reader.
	r := read(t, f.connect(t, f.config()), src, nil)
	r.until(10)
	for _, d := range r.log.list() {
		if !d.Redelivered {
			t.Errorf("message %d was in the hands of another reader, but is not marked redelivered", d.Seq)
		}
	}
	close(out)
	cancel()
	if err := <-first; err != nil {
		t.Errorf("Consume: %v", err)
	}
	eventually(t, func() error {
		ps, err := b.Positions(t.Context(), "t", []string{src.Subscription.UID})
		if err == nil && !ps.Passed(src.Subscription.UID, at[9]) {
			err = fmt.Errorf("%+v", ps)
		}
		return err
	})
}

// Commits fail for a while: nothing is lost, nobody is put out.
func TestCommitErrors(t *testing.T) {
	t.Parallel()
	f := startCluster(t, 1)
	b := f.connect(t, f.config())
	src := mustEnsure(t, b, "t")
	r := read(t, b, src, nil)
	mustPublish(t, b, messages("t", "k", 1, 10))
	r.until(10)
	h := f.server().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetCommit}, Err: kerr.NotCoordinator, Count: 5})
	at := mustPublish(t, b, messages("t", "k", 11, 20))
	r.until(20)
	eventually(t, func() error {
		ps, err := b.Positions(t.Context(), "t", []string{src.Subscription.UID})
		if err == nil && !ps.Passed(src.Subscription.UID, at[9]) {
			err = fmt.Errorf("not passed after %d faults: %+v", h.Hits(), ps)
		}
		return err
	})
	if again := r.log.again(); again > 0 {
		t.Errorf("%d messages were settled twice", again)
	}
}

// The oldest messages are dropped while a subscription is away: it goes on with those that are there.
func TestOldestDropped(t *testing.T) {
	t.Parallel()
	f := startCluster(t, 1)
	b := f.connect(t, f.config())
	src := mustEnsure(t, b, "t")
	at := mustPublish(t, b, messages("t", "k", 1, 100))
	if err := f.server().DeleteRecords("twostep.t.t", 0, 60); err != nil {
		t.Fatal(err)
	}
	ps, err := b.Positions(t.Context(), "t", []string{src.Subscription.UID})
	if err != nil || !ps.Passed(src.Subscription.UID, at[59]) || ps.Passed(src.Subscription.UID, at[60]) {
		t.Errorf("positions %+v, %v: what was dropped has passed, and no more", ps, err)
	}
	r := read(t, b, src, nil)
	r.until(40)
	if first := r.log.list()[0]; first.Seq != 61 {
		t.Errorf("the first message is %d", first.Seq)
	}
}

// A reader falls behind what is dropped while it runs.
func TestDroppedWhileReading(t *testing.T) {
	t.Parallel()
	f := startCluster(t, 1)
	b := f.connect(t, f.config())
	src := mustEnsure(t, b, "t")
	r := read(t, b, src, nil)
	mustPublish(t, b, messages("t", "k", 1, 10))
	r.until(10)
	// What it fetches next is gone before it can.
	h := f.server().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Err: kerr.OffsetOutOfRange, Count: 1})
	mustPublish(t, b, messages("t", "k", 11, 20))
	r.until(20)
	eventually(t, func() error {
		if h.Hits() == 0 {
			mustPublish(t, b, messages("t", "k", 20, 20))
			return errors.New("the fault was not hit")
		}
		return nil
	})
	mustPublish(t, b, messages("t", "k", 21, 30))
	r.until(30)
	r.wantOrder()
}

// A handler that fails is stopped between two tries: its messages are not settled, and the next reader is warned of them.
func TestStoppedBetweenTries(t *testing.T) {
	t.Parallel()
	f := startCluster(t, 1)
	b := f.connect(t, f.config())
	src := mustEnsure(t, b, "t")
	at := mustPublish(t, b, messages("t", "k", 1, 10))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err := b.Consume(ctx, src, func(context.Context, []broker.Delivery) error {
		cancel()
		return errors.New("the handler failed")
	})
	if err != nil {
		t.Fatal(err)
	}
	if ps, err := b.Positions(t.Context(), "t", []string{src.Subscription.UID}); err != nil || ps.Passed(src.Subscription.UID, at[0]) {
		t.Errorf("positions %+v, %v: nothing is settled", ps, err)
	}
	r := read(t, b, src, nil)
	r.until(10)
	for _, d := range r.log.list() {
		if !d.Redelivered {
			t.Errorf("message %d was in the handler before, but is not marked redelivered", d.Seq)
		}
	}
}
