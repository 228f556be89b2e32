package kafka_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/broker/brokertest"
	kafkabroker "github.com/twostep-mq/twostep/broker/kafka"
)

// server is the address of a real Kafka (scripts/kafka.sh).
func server(t testing.TB, variable string) string {
	t.Helper()
	address := os.Getenv(variable)
	if address == "" {
		t.Skipf("%s is not set: no Kafka to test with (scripts/kafka.sh start; eval \"$(scripts/kafka.sh env)\")", variable)
	}
	return address
}

// session is the least that scripts/kafka.sh allows, and some more for a busy machine.
const session = 2 * time.Second

// config has a prefix of the test's own, so that tests share a server.
func config(t testing.TB, number int64) kafkabroker.Config {
	t.Helper()
	cfg := kafkabroker.Config{
		Brokers: server(t, "TWOSTEP_TEST_KAFKA"), Prefix: fmt.Sprintf("t%d-%d", time.Now().UnixNano(), number),
		SessionTimeout: session, RebalanceTimeout: 30 * time.Second, InboxMessages: 100,
	}
	if os.Getenv("TWOSTEP_TEST_LOG") != "" {
		cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return cfg
}

func connect(t testing.TB, cfg kafkabroker.Config) *kafkabroker.Broker {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
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

// The suite on a real Kafka. Restarts and wipes are tested on kfake, for others use this server, too.
func TestSuite(t *testing.T) {
	server(t, "TWOSTEP_TEST_KAFKA")
	t.Parallel()
	var number atomic.Int64
	brokertest.Run(t, func(t *testing.T) brokertest.Harness {
		cfg := config(t, number.Add(1))
		t.Cleanup(func() { removeTopics(t, cfg.Prefix) })
		return brokertest.Harness{
			Connect: func(t *testing.T) broker.Broker { return connect(t, cfg) },
			Spread: func(t *testing.T) broker.Broker {
				spread := cfg
				spread.Partitions = 4
				return connect(t, spread)
			},
			Foreign: func(t *testing.T, topic, payload, header, value string) {
				publishForeign(t, cfg, topic, payload, header, value)
			},
			Silence: session + 2*time.Second, InboxMessages: cfg.InboxMessages, TooLarge: 2 << 20,
		}
	})
}

func client(t testing.TB) *kafka.Client {
	t.Helper()
	transport := &kafka.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &kafka.Client{Addr: kafka.TCP(server(t, "TWOSTEP_TEST_KAFKA")), Timeout: 10 * time.Second, Transport: transport}
}

// removeTopics removes what a test has made.
func removeTopics(t testing.TB, prefix string) {
	t.Helper()
	c := client(t)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	all, err := c.Metadata(ctx, &kafka.MetadataRequest{})
	if err != nil {
		t.Error(err)
		return
	}
	var own []string
	for _, topic := range all.Topics {
		if strings.HasPrefix(topic.Name, prefix) {
			own = append(own, topic.Name)
		}
	}
	if len(own) == 0 {
		return
	}
	if _, err := c.DeleteTopics(ctx, &kafka.DeleteTopicsRequest{Topics: own}); err != nil {
		t.Error(err)
	}
}

// publishForeign publishes with a client alone, as another program would.
func publishForeign(t testing.TB, cfg kafkabroker.Config, topic, payload, header, value string) {
	t.Helper()
	transport := &kafka.Transport{}
	defer transport.CloseIdleConnections()
	w := &kafka.Writer{
		Addr: kafka.TCP(cfg.Brokers), Topic: cfg.Prefix + ".t." + topic, RequiredAcks: kafka.RequireAll, BatchTimeout: time.Millisecond,
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
