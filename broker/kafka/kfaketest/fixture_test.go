package kfaketest

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/broker/brokertest"
	kafkabroker "github.com/twostep-mq/twostep/broker/kafka"
)

// session is the session timeout of the tests: Kafka's own least is 6 s.
const session = time.Second

// fixture is a cluster of a test's own, on ports that stay the same over restarts.
type fixture struct {
	dir   string
	ports []int
	opts  []kfake.Opt

	mu      sync.Mutex
	cluster *kfake.Cluster
}

func startCluster(t testing.TB, nodes int, opts ...kfake.Opt) *fixture {
	t.Helper()
	f := &fixture{dir: filepath.Join(t.TempDir(), "kafka"), opts: opts}
	for range nodes {
		f.ports = append(f.ports, freePort(t))
	}
	f.start(t)
	t.Cleanup(f.stop)
	return f
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (f *fixture) start(t testing.TB) {
	t.Helper()
	opts := append([]kfake.Opt{
		kfake.Ports(f.ports...), kfake.DataDir(f.dir), kfake.GroupMinSessionTimeout(100 * time.Millisecond),
		kfake.BrokerConfigs(map[string]string{"group.initial.rebalance.delay.ms": "0"}),
	}, f.opts...)
	var cluster *kfake.Cluster
	var err error
	for deadline := time.Now().Add(10 * time.Second); ; <-time.After(20 * time.Millisecond) {
		// The ports may be busy for a moment after a stop.
		if cluster, err = kfake.NewCluster(opts...); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cluster = cluster
}

func (f *fixture) server() *kfake.Cluster {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cluster
}

func (f *fixture) stop() { f.server().Close() }

func (f *fixture) wipe(t testing.TB) {
	t.Helper()
	f.stop()
	if err := os.RemoveAll(f.dir); err != nil {
		t.Fatal(err)
	}
	f.start(t)
}

func (f *fixture) config() kafkabroker.Config {
	cfg := kafkabroker.Config{
		SessionTimeout: session, RebalanceTimeout: 30 * time.Second, InboxMessages: 100, TopicMaxBytes: 64 << 20, Replication: 1,
	}
	for i, port := range f.ports {
		if i > 0 {
			cfg.Brokers += ","
		}
		cfg.Brokers += "127.0.0.1:" + strconv.Itoa(port)
	}
	if os.Getenv("TWOSTEP_TEST_LOG") != "" {
		cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return cfg
}

func (f *fixture) connect(t testing.TB, cfg kafkabroker.Config) *kafkabroker.Broker {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	b, err := kafkabroker.Connect(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(context.Background()); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return b
}

func TestSuite(t *testing.T) {
	t.Parallel()
	brokertest.Run(t, func(t *testing.T) brokertest.Harness { return harness(startCluster(t, 1)) })
}

func harness(f *fixture) brokertest.Harness {
	return brokertest.Harness{
		Connect: func(t *testing.T) broker.Broker { return f.connect(t, f.config()) },
		Spread: func(t *testing.T) broker.Broker {
			cfg := f.config()
			cfg.Partitions = 6
			return f.connect(t, cfg)
		},
		Restart: func(t *testing.T) { f.stop(); f.start(t) },
		Wipe:    func(t *testing.T) { f.wipe(t) },
		Foreign: func(t *testing.T, topic, payload, header, value string) {
			publishForeign(t, f, topic, payload, header, value)
		},
		Silence: 2 * session, InboxMessages: 100, TooLarge: 2 << 20,
	}
}

// publishForeign publishes with a client alone, as another program would.
func publishForeign(t testing.TB, f *fixture, topic, payload, header, value string) {
	t.Helper()
	transport := &kafka.Transport{}
	defer transport.CloseIdleConnections()
	w := &kafka.Writer{
		Addr: kafka.TCP(f.server().ListenAddrs()...), Topic: "twostep.t." + topic, RequiredAcks: kafka.RequireAll, BatchTimeout: time.Millisecond,
		Transport: transport,
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err := w.WriteMessages(ctx, kafka.Message{Value: []byte(payload), Headers: []kafka.Header{{Key: header, Value: []byte(value)}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}

func (f *fixture) kafkaClient(t testing.TB) *kafka.Client {
	t.Helper()
	transport := &kafka.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &kafka.Client{Addr: kafka.TCP(f.server().ListenAddrs()...), Timeout: 10 * time.Second, Transport: transport}
}

func createPartitions(topic string, count int) *kafka.CreatePartitionsRequest {
	return &kafka.CreatePartitionsRequest{Topics: []kafka.TopicPartitionsConfig{{Name: topic, Count: int32(count)}}}
}

// timeOutProduces has the next n produce requests answered so, though they are stored.
func (f *fixture) timeOutProduces(n int) {
	f.server().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.RequestTimedOut, Count: n})
}
