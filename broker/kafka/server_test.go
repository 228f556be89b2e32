package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/broker"
	kafkabroker "github.com/twostep-mq/twostep/broker/kafka"
)

const outboxID = "0198aaaa-0000-7000-8000-00000000000a"

func messages(topic string, from, to int) []*broker.Message {
	var ms []*broker.Message
	for n := from; n <= to; n++ {
		id := fmt.Sprintf("0198cccc-0000-7000-8000-%012x", n)
		ms = append(ms, &broker.Message{
			ID: id, GID: id, Topic: topic, Key: fmt.Sprint("k", n%5), Payload: []byte("x"), Outbox: outboxID, Seq: int64(n), Attempt: 1,
		})
	}
	return ms
}

// publishUntilStored publishes as a relay does: it makes the topic again and sends again what was not acknowledged.
func publishUntilStored(t *testing.T, b *kafkabroker.Broker, ms []*broker.Message) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); len(ms) > 0; {
		errs := make(chan error, len(ms))
		failed := make([]bool, len(ms))
		b.Publish(t.Context(), ms, func(i int, _ broker.Position, err error) {
			failed[i] = err != nil
			errs <- err
		})
		var last error
		for range ms {
			if err := <-errs; err != nil {
				last = err
			}
		}
		if errors.Is(last, broker.ErrNoTopic) {
			last = b.EnsureTopic(t.Context(), broker.TopicSpec{Name: ms[0].Topic})
		}
		var left []*broker.Message
		for i, m := range ms {
			if failed[i] {
				left = append(left, m)
			}
		}
		if ms = left; len(ms) > 0 && time.Now().After(deadline) {
			t.Fatalf("%d messages are not stored: %v", len(ms), last)
		}
	}
}

// A Kafka of the test's own is killed in the middle, and then loses its disk: everything published since is read, and what was read before
// the wipe has another incarnation.
func TestKilledAndWiped(t *testing.T) {
	if os.Getenv("TWOSTEP_LONG") == "" {
		t.Skip("TWOSTEP_LONG is not set: a Kafka of the test's own takes a minute")
	}
	if _, err := exec.LookPath("java"); err != nil {
		t.Skip("there is no Java")
	}
	folder := t.TempDir()
	if libs := os.Getenv("TWOSTEP_TEST_KAFKA_LIBS"); libs != "" { // jars that are there already
		if err := os.Mkdir(folder+"/kafka", 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(libs, folder+"/kafka/libs"); err != nil {
			t.Fatal(err)
		}
	}
	const port = 36972
	kafka := func(what string) {
		t.Helper()
		cmd := exec.Command("scripts/kafka.sh", what)
		cmd.Dir = "../.."
		cmd.Env = append(os.Environ(), "TWOSTEP_SERVICES="+folder, "TWOSTEP_KAFKA_PORT="+strconv.Itoa(port))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("scripts/kafka.sh %s: %v\n%s", what, err, out)
		}
	}
	kafka("start")
	t.Cleanup(func() { kafka("kill") })
	cfg := kafkabroker.Config{Brokers: "127.0.0.1:" + strconv.Itoa(port), SessionTimeout: session, Partitions: 3}
	b := connect(t, cfg)
	sub := broker.SubscriptionSpec{UID: "u", Topic: "t", Keyed: true, Since: time.Now().UnixNano()}
	if err := errors.Join(b.EnsureTopic(t.Context(), broker.TopicSpec{Name: "t"}), b.EnsureSubscription(t.Context(), sub)); err != nil {
		t.Fatal(err)
	}
	got := make(chan broker.Delivery, 10_000)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	reader := connect(t, cfg)
	go func() {
		_ = reader.Consume(ctx, broker.Source{Subscription: sub}, func(_ context.Context, ds []broker.Delivery) error {
			for _, d := range ds {
				got <- d
			}
			return nil
		})
	}()
	seen := map[int64]string{}
	until := func(n int) {
		t.Helper()
		timeout := time.After(2 * time.Minute)
		for len(seen) < n {
			select {
			case d := <-got:
				seen[d.Seq] = d.Position.Stream
			case <-timeout:
				t.Fatalf("%d of %d messages came", len(seen), n)
			}
		}
	}
	publishUntilStored(t, b, messages("t", 1, 500))
	until(500)
	restarted := make(chan struct{})
	go func() { defer close(restarted); kafka("kill"); kafka("start") }()
	publishUntilStored(t, b, messages("t", 501, 1500))
	<-restarted
	until(1500)
	old := seen[1500]
	kafka("wipe")
	kafka("start")
	publishUntilStored(t, b, messages("t", 1501, 2000))
	until(2000)
	if seen[2000] == old || strings.TrimSpace(old) == "" {
		t.Errorf("incarnation %q before the wipe, %q after it", old, seen[2000])
	}
}

// The logins on a real Kafka: PLAIN and both SCRAMs, and what a wrong password says.
func TestLogins(t *testing.T) {
	address := server(t, "TWOSTEP_TEST_KAFKA_SASL")
	password := os.Getenv("TWOSTEP_TEST_KAFKA_PASSWORD")
	for _, mechanism := range []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
		cfg := config(t, 1)
		cfg.Brokers, cfg.Mechanism, cfg.User, cfg.Password = address, mechanism, "twostep", password
		t.Cleanup(func() { removeTopics(t, cfg.Prefix) })
		b := connect(t, cfg)
		if err := b.EnsureTopic(t.Context(), broker.TopicSpec{Name: "t"}); err != nil {
			t.Errorf("%s: %v", mechanism, err)
		}
		publishUntilStored(t, b, messages("t", 1, 10))
		cfg.Password = "wrong-secret"
		began := time.Now()
		_, err := kafkabroker.Connect(t.Context(), cfg)
		if err == nil || !strings.Contains(err.Error(), "broker.password") || strings.Contains(err.Error(), cfg.Password) {
			t.Errorf("%s with a wrong password: %v", mechanism, err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%s with a wrong password: it took %v", mechanism, took)
		}
	}
}
