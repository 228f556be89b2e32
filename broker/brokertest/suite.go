// Package brokertest is the suite that every broker passes. It tests what package broker promises, method by method, through
// the port alone.
package brokertest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/broker"
)

// Harness is a broker of a test's own.
type Harness struct {
	// Connect makes a connection as another process would have. The harness closes it when the test ends.
	Connect func(t *testing.T) broker.Broker
	// Restart stops the broker and starts it with what it kept. nil: the test is skipped.
	Restart func(t *testing.T)
	// Wipe stops the broker and starts it with nothing. nil: the test is skipped.
	Wipe func(t *testing.T)
	// Foreign publishes a message as a program without twostep would: a payload and one header. nil: the test is skipped.
	Foreign func(t *testing.T, topic, payload, header, value string)
	// Silence is the longest time after which the messages of a reader that has died are delivered again.
	Silence time.Duration
	// InboxMessages is how many messages one inbox holds.
	InboxMessages int
	// TooLarge is a payload size the broker refuses.
	TooLarge int
	// Shared: readers of a keyed subscription share it instead of standing by for each other, as on an old server. Order is then kept by
	// twostep alone, with more messages sent again; what tests the standing by is skipped.
	Shared bool
	// Spread makes a connection whose topics have several partitions, where readers share a subscription by partition; nil: Connect's do.
	Spread func(t *testing.T) broker.Broker
	// Lacks names tests about what the broker has no way to do, with the reason. They are skipped: whoever uses the broker does without.
	Lacks map[string]string
}

// Run runs the suite. open makes a broker that nobody else uses.
func Run(t *testing.T, open func(t *testing.T) Harness) {
	tests := []struct {
		name string
		run  func(t *testing.T, h Harness)
	}{
		{"Topics/AbsentTopic", testAbsentTopic},
		{"Topics/EnsureIsIdempotent", testEnsureIsIdempotent},
		{"Topics/Incarnation", testIncarnation},
		{"Topics/Positions", testPositions},
		{"Topics/SubscriptionBeforeItsFirstRun", testSubscriptionBeforeRun},
		{"Topics/SubscriptionSince", testSubscriptionSince},
		{"Publish/OrderAndPositions", testPublishOrder},
		{"Publish/Concurrent", testPublishConcurrent},
		{"Publish/TooLarge", testTooLarge},
		{"Publish/Content", testContent},
		{"Publish/LargestContent", testLargestContent},
		{"Publish/TenThousand", testTenThousand},
		{"Consume/HandlerFails", testHandlerFails},
		{"Consume/HandlerKeepsFailing", testHandlerKeepsFailing},
		{"Consume/Batches", testBatches},
		{"Consume/EndsAfterTheHandler", testEndsAfterHandler},
		{"Consume/SlowHandler", testSlowHandler},
		{"Consume/Shared", testShared},
		{"Consume/Foreign", testForeign},
		{"Keyed/OneAtATime", testKeyedOneAtATime},
		{"Keyed/GoodbyeHandsOver", testKeyedGoodbye},
		{"Keyed/DeathHandsOver", testKeyedDeath},
		{"Inbox/Order", testInboxOrder},
		{"Inbox/NeverMade", testInboxNeverMade},
		{"Inbox/Full", testInboxFull},
		{"Inbox/Receipts", testReceipts},
		{"Inbox/Delete", testInboxDelete},
		{"State/Watch", testStateWatch},
		{"State/Prefix", testStatePrefix},
		{"State/SameOrder", testStateOrder},
		{"State/FunctionFails", testStateFunctionFails},
		{"Requests/Answer", testAnswer},
		{"Requests/NobodyAnswers", testNobodyAnswers},
		{"Requests/OneOfSeveral", testOneAnswers},
		{"Requests/Ring", testRing},
		{"Faults/Restart", testRestart},
		{"Faults/RestartKeyed", testRestartKeyed},
		{"Faults/WipeTopic", testWipeTopic},
		{"Faults/WipeInbox", testWipeInbox},
		{"Faults/WipeState", testWipeState},
		{"Faults/ReaderDeleted", testReaderDeleted},
		{"Faults/TopicMadeAnew", testTopicMadeAnew},
		{"Close", testClose},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			h := open(t)
			if why := h.Lacks[test.name]; why != "" {
				t.Skipf("the harness lacks this: %s", why)
			}
			test.run(t, h)
		})
	}
}

const (
	// patience bounds every wait of the suite that is to succeed.
	patience = 20 * time.Second
	outbox   = "0198aaaa-0000-7000-8000-00000000000a"
)

// uid makes a subscription's uid.
func uid(n int) string { return fmt.Sprintf("0198bbbb-0000-7000-8000-%012x", n) }

func messageID(n int) string { return fmt.Sprintf("0198cccc-0000-7000-8000-%012x", n) }

// message makes the nth message of a topic.
func message(topic string, n int) *broker.Message {
	return &broker.Message{
		ID: messageID(n), GID: messageID(n), Topic: topic, ContentType: "text/plain", Payload: fmt.Appendf(nil, "payload %d", n),
		Time: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC), Outbox: outbox, Seq: int64(n), Attempt: 1,
	}
}

func messages(topic string, from, to int) []*broker.Message {
	ms := make([]*broker.Message, 0, to-from+1)
	for n := from; n <= to; n++ {
		ms = append(ms, message(topic, n))
	}
	return ms
}

func background(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits until cond returns nil.
func eventually(t *testing.T, cond func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := cond()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %v", patience, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// published is what became of the messages of one Publish.
type published struct {
	at   []broker.Position
	errs []error
}

// publish publishes and waits until done was called for each. It fails the test if done is called twice.
func publish(t *testing.T, b broker.Broker, ms []*broker.Message) published {
	t.Helper()
	var (
		mu    sync.Mutex
		calls = make([]int, len(ms))
		left  = len(ms)
		all   = make(chan struct{})
		out   = published{make([]broker.Position, len(ms)), make([]error, len(ms))}
	)
	b.Publish(background(t), ms, func(i int, p broker.Position, err error) {
		mu.Lock()
		defer mu.Unlock()
		if calls[i]++; calls[i] > 1 {
			t.Errorf("done was called %d times for message %d", calls[i], i)
			return
		}
		out.at[i], out.errs[i] = p, err
		if left--; left == 0 {
			close(all)
		}
	})
	select {
	case <-all:
	case <-time.After(patience):
		mu.Lock()
		defer mu.Unlock()
		t.Fatalf("done was not called for %d of %d messages", left, len(ms))
	}
	mu.Lock()
	defer mu.Unlock()
	return out
}

// mustPublish publishes and wants every message acknowledged.
func mustPublish(t *testing.T, b broker.Broker, ms []*broker.Message) []broker.Position {
	t.Helper()
	out := publish(t, b, ms)
	for i, err := range out.errs {
		if err != nil {
			t.Fatalf("publish message %d: %v", i, err)
		}
	}
	return out.at
}

// publishUntilStored publishes as a relay does: it makes the topic again and sends again what was not acknowledged.
func publishUntilStored(t *testing.T, b broker.Broker, ms []*broker.Message) {
	t.Helper()
	eventually(t, func() error {
		out := publish(t, b, ms)
		var left []*broker.Message
		var last error
		for i, err := range out.errs {
			if errors.Is(err, broker.ErrNoTopic) {
				if err := b.EnsureTopic(background(t), broker.TopicSpec{Name: ms[i].Topic}); err != nil {
					last = err
				}
			}
			if err != nil {
				left, last = append(left, ms[i]), err
			}
		}
		ms = left
		if len(ms) > 0 {
			return last
		}
		return nil
	})
}

// reading is a running Consume that notes what it gets.
type reading struct {
	t      *testing.T
	cancel context.CancelFunc
	done   chan error

	mu      sync.Mutex
	got     []broker.Delivery // of settled batches
	batches [][]broker.Delivery
}

// read consumes src. before, if given, is called with each batch first; what it returns is the handler's result.
func read(t *testing.T, b broker.Broker, src broker.Source, before func([]broker.Delivery) error) *reading {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &reading{t: t, cancel: cancel, done: make(chan error, 1)}
	go func() {
		r.done <- b.Consume(ctx, src, func(_ context.Context, ds []broker.Delivery) error {
			var err error
			if before != nil {
				err = before(ds)
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			r.batches = append(r.batches, ds)
			if err == nil {
				r.got = append(r.got, ds...)
			}
			return err
		})
	}()
	t.Cleanup(func() { cancel() })
	return r
}

// stop ends Consume and wants no error.
func (r *reading) stop() {
	r.t.Helper()
	r.cancel()
	select {
	case err := <-r.done:
		if err != nil {
			r.t.Errorf("Consume: %v", err)
		}
	case <-time.After(patience):
		r.t.Fatal("Consume did not end with its context")
	}
}

// deliveries returns what was settled so far.
func (r *reading) deliveries() []broker.Delivery {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]broker.Delivery(nil), r.got...)
}

// atLeast waits for n settled deliveries.
func (r *reading) atLeast(n int) []broker.Delivery {
	r.t.Helper()
	eventually(r.t, func() error {
		if got := len(r.deliveries()); got < n {
			return fmt.Errorf("%d of %d messages delivered", got, n)
		}
		return nil
	})
	return r.deliveries()
}

// wantSeqs checks that the deliveries are exactly the messages from..to, in order.
func wantSeqs(t *testing.T, ds []broker.Delivery, from, to int) {
	t.Helper()
	if len(ds) != to-from+1 {
		t.Fatalf("got %d deliveries, want %d: %v", len(ds), to-from+1, brief(ds))
	}
	for i, d := range ds {
		if d.Seq != int64(from+i) {
			t.Fatalf("delivery %d is message %d, want %d: %v", i, d.Seq, from+i, brief(ds))
		}
	}
}

// wantAll checks that each of the messages from..to is there, and that each incarnation of the topic was read in order, apart
// from what came again.
func wantAll(t *testing.T, ds []broker.Delivery, from, to int) {
	t.Helper()
	seen := map[int64]bool{}
	last := map[string]uint64{}
	for _, d := range ds {
		if !seen[d.Seq] && d.Position.Offset <= last[d.Position.Stream] {
			t.Fatalf("message %d at %+v came after offset %d: %v", d.Seq, d.Position, last[d.Position.Stream], brief(ds))
		}
		seen[d.Seq] = true
		last[d.Position.Stream] = max(last[d.Position.Stream], d.Position.Offset)
	}
	for n := from; n <= to; n++ {
		if !seen[int64(n)] {
			t.Fatalf("message %d did not come: %v", n, brief(ds))
		}
	}
}

// brief lists sequence numbers, some of them.
func brief(ds []broker.Delivery) []int64 {
	var out []int64
	for i, d := range ds {
		if i == 60 {
			break
		}
		out = append(out, d.Seq)
	}
	return out
}

// topicWith makes a topic and a subscription of it.
func topicWith(t *testing.T, b broker.Broker, topic string, keyed bool) broker.Source {
	t.Helper()
	ctx := background(t)
	if err := b.EnsureTopic(ctx, broker.TopicSpec{Name: topic}); err != nil {
		t.Fatal(err)
	}
	s := broker.SubscriptionSpec{UID: uid(1), Topic: topic, Keyed: keyed}
	if err := b.EnsureSubscription(ctx, s); err != nil {
		t.Fatal(err)
	}
	return broker.Source{Subscription: s}
}
