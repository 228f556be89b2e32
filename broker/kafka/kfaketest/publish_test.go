package kfaketest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/twostep-mq/twostep/broker"
	kafkabroker "github.com/twostep-mq/twostep/broker/kafka"
)

const outboxID = "0198aaaa-0000-7000-8000-00000000000a"

// message makes the nth message of a topic, with a key.
func message(topic, key string, n int) *broker.Message {
	id := fmt.Sprintf("0198cccc-0000-7000-8000-%012x", n)
	return &broker.Message{ID: id, GID: id, Topic: topic, Key: key, Payload: []byte("x"), Outbox: outboxID, Seq: int64(n), Attempt: 1}
}

func messages(topic, key string, from, to int) []*broker.Message {
	var ms []*broker.Message
	for n := from; n <= to; n++ {
		ms = append(ms, message(topic, key, n))
	}
	return ms
}

// publish publishes and waits for every word.
func publish(t testing.TB, b *kafkabroker.Broker, ms []*broker.Message) (at []broker.Position, errs []error) {
	t.Helper()
	at, errs = make([]broker.Position, len(ms)), make([]error, len(ms))
	var all sync.WaitGroup
	all.Add(len(ms))
	b.Publish(t.Context(), ms, func(i int, p broker.Position, err error) {
		at[i], errs[i] = p, err
		all.Done()
	})
	all.Wait()
	return at, errs
}

func mustPublish(t testing.TB, b *kafkabroker.Broker, ms []*broker.Message) []broker.Position {
	t.Helper()
	at, errs := publish(t, b, ms)
	for i, err := range errs {
		if err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
	}
	return at
}

func mustEnsure(t testing.TB, b *kafkabroker.Broker, topic string) broker.Source {
	t.Helper()
	s := broker.SubscriptionSpec{UID: "0198bbbb-0000-7000-8000-000000000001", Topic: topic, Keyed: true}
	if err := b.EnsureTopic(t.Context(), broker.TopicSpec{Name: topic}); err != nil {
		t.Fatal(err)
	}
	if err := b.EnsureSubscription(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	return broker.Source{Subscription: s}
}

// stored reads what lies in a partition of a topic, by another client.
func stored(t testing.TB, f *fixture, topic string, partition, n int) []string {
	t.Helper()
	r := kafka.NewReader(kafka.ReaderConfig{
		Brokers: f.server().ListenAddrs(), Topic: "twostep.t." + topic, Partition: partition, MaxWait: 50 * time.Millisecond,
	})
	defer func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var ids []string
	for len(ids) < n {
		m, err := r.ReadMessage(ctx)
		if err != nil {
			t.Fatalf("after %d records: %v", len(ids), err)
		}
		for _, h := range m.Headers {
			if h.Key == "ce_id" {
				ids = append(ids, string(h.Value))
			}
		}
	}
	return ids
}

// A produce that failed, before or after it was stored, is tried again before anything later: the order holds.
func TestOrderThroughProduceErrors(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]*kerr.Error{
		"timed out and stored": kerr.RequestTimedOut, "too few replicas and stored": kerr.NotEnoughReplicasAfterAppend,
		"too few replicas": kerr.NotEnoughReplicas, "another leader": kerr.NotLeaderForPartition,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := startCluster(t, 1)
			b := f.connect(t, f.config())
			mustEnsure(t, b, "t")
			h := f.server().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: fault, Count: 2})
			ms := messages("t", "k", 1, 200)
			at := mustPublish(t, b, ms)
			if h.Hits() != 2 {
				t.Fatalf("%d faults hit", h.Hits())
			}
			last := uint64(0)
			for i, p := range at {
				if p.Offset <= last {
					t.Fatalf("message %d lies at %d after %d", i, p.Offset, last)
				}
				last = p.Offset
			}
			// Whoever reads finds each first copy after that of its predecessor.
			next := 0
			for _, id := range stored(t, f, "t", 0, int(last)) {
				if next < len(ms) && id == ms[next].ID {
					next++
				} else if slices.IndexFunc(ms, func(m *broker.Message) bool { return m.ID == id }) >= next {
					t.Fatalf("message %s came before %s", id, ms[next].ID)
				}
			}
			if next != len(ms) {
				t.Fatalf("%d of %d messages are stored", next, len(ms))
			}
		})
	}
}

// A batch that the broker finds too large is cut, and only what is too large by itself is given up.
func TestTooLargeBatch(t *testing.T) {
	t.Parallel()
	f := startCluster(t, 1)
	b := f.connect(t, f.config())
	if err := f.server().CreateTopic("twostep.t.t", 1, map[string]string{"max.message.bytes": "5000"}); err != nil {
		t.Fatal(err)
	}
	ms := messages("t", "k", 1, 100)
	ms[50].Payload = make([]byte, 10_000)
	at, errs := publish(t, b, ms)
	for i, err := range errs {
		switch {
		case i == 50 && !errors.Is(err, broker.ErrTooLarge):
			t.Errorf("the large message: %v", err)
		case i != 50 && err != nil:
			t.Errorf("message %d: %v", i, err)
		case i != 50 && i > 0 && i != 51 && at[i].Offset != at[i-1].Offset+1:
			t.Errorf("message %d lies at %d after %d", i, at[i].Offset, at[i-1].Offset)
		}
	}
}

// Leaders move while messages come: none is lost, order holds.
func TestLeadersMove(t *testing.T) {
	t.Parallel()
	f := startCluster(t, 3)
	cfg := f.config()
	cfg.Partitions = 4
	b := f.connect(t, cfg)
	src := mustEnsure(t, b, "t")
	r := read(t, f.connect(t, cfg), src, nil)
	n := 0
	for range 10 {
		for range 20 {
			mustPublish(t, b, []*broker.Message{message("t", fmt.Sprint("k", n%7), n+1), message("t", fmt.Sprint("k", (n+1)%7), n+2)})
			n += 2
		}
		f.server().ShufflePartitionLeaders()
		f.server().RehashCoordinators()
	}
	r.until(n)
	r.wantOrder()
}

// Java's clients put the key where we do.
func TestPartitionsAreJavas(t *testing.T) {
	t.Parallel()
	f := startCluster(t, 1)
	cfg := f.config()
	cfg.Partitions = 7
	b := f.connect(t, cfg)
	mustEnsure(t, b, "t")
	// By org.apache.kafka.common.utils.Utils: toPositive(murmur2(key)) % 7.
	for key, want := range map[string]int{"21": murmur("21", -973932308), "foobar": murmur("foobar", -790332482), "abc": murmur("abc", 479470107)} {
		if at := mustPublish(t, b, []*broker.Message{message("t", key, 1)}); at[0].Partition != want {
			t.Errorf("key %s lies in partition %d, want %d", key, at[0].Partition, want)
		}
	}
}

// murmur takes the hash that Kafka's own UtilsTest names for the key.
func murmur(_ string, hash int32) int { return int(hash&0x7fffffff) % 7 }

// While the broker is away, Publish and Send give up after the time configured, once and not for each message.
func TestBrokerAway(t *testing.T) {
	t.Parallel()
	f := startCluster(t, 1)
	cfg := f.config()
	cfg.AckTimeout = 300 * time.Millisecond
	b := f.connect(t, cfg)
	mustEnsure(t, b, "t")
	if err := b.EnsureInbox(t.Context(), "sub.u"); err != nil {
		t.Fatal(err)
	}
	ms := messages("t", "k", 1, 50)
	mustPublish(t, b, ms)
	f.stop()
	began := time.Now()
	_, errs := publish(t, b, ms)
	for _, err := range errs {
		if err == nil {
			t.Error("a message was acknowledged by nobody")
		}
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
	f.start(t)
	eventually(t, func() error {
		_, errs := publish(t, b, messages("t", "k", 51, 51))
		return errs[0]
	})
}

// A broker that hangs holds nobody for longer than configured.
func TestBrokerHangs(t *testing.T) {
	t.Parallel()
	f := startCluster(t, 1)
	cfg := f.config()
	cfg.AckTimeout = 300 * time.Millisecond
	b := f.connect(t, cfg)
	mustEnsure(t, b, "t")
	mustPublish(t, b, messages("t", "k", 1, 1))
	f.server().ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		f.server().KeepControl()
		return nil, nil, true // no answer, ever
	})
	began := time.Now()
	_, errs := publish(t, b, messages("t", "k", 2, 30))
	for _, err := range errs {
		if err == nil {
			t.Fatal("a message was acknowledged by nobody")
		}
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
}

// A topic made anew by somebody else: its positions have another incarnation at the latest when an offset comes again.
func TestTopicMadeAnewElsewhere(t *testing.T) {
	t.Parallel()
	f := startCluster(t, 1)
	b, other := f.connect(t, f.config()), f.connect(t, f.config())
	mustEnsure(t, b, "t")
	old := mustPublish(t, b, messages("t", "k", 1, 10))
	if err := other.DeleteTopic(t.Context(), "t"); err != nil {
		t.Fatal(err)
	}
	mustEnsure(t, other, "t")
	mustPublish(t, b, messages("t", "k", 11, 11))
	now := mustPublish(t, b, messages("t", "k", 12, 12))
	if now[0].Stream == old[0].Stream {
		t.Errorf("incarnation %s is that of the topic that was deleted", now[0].Stream)
	}
	if ps, err := b.Positions(t.Context(), "t", nil); err != nil || ps.Stream != now[0].Stream {
		t.Errorf("positions %+v, %v; published to %s", ps, err, now[0].Stream)
	}
}

func TestNamesWrittenAlike(t *testing.T) {
	t.Parallel()
	f := startCluster(t, 1)
	b := f.connect(t, f.config())
	mustEnsure(t, b, "a.b")
	err := b.EnsureTopic(t.Context(), broker.TopicSpec{Name: "a_b"})
	if err == nil || !strings.Contains(err.Error(), "choose another name") {
		t.Errorf("EnsureTopic: %v", err)
	}
}
