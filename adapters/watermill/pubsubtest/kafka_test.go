package pubsubtest

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/twostep-mq/twostep/broker"
	kafkabroker "github.com/twostep-mq/twostep/broker/kafka"
)

// kfakeServer is a Kafka in this process, on a port that stays the same over restarts.
type kfakeServer struct {
	dir  string
	port int

	mu      sync.Mutex
	cluster *kfake.Cluster
}

func startKFake(t *testing.T) fixture {
	t.Helper()
	s := &kfakeServer{dir: filepath.Join(t.TempDir(), "kafka"), port: freePort(t)}
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stop)
	return fixture{
		connect: func(t *testing.T) broker.Broker {
			return connectKafka(t, kafkabroker.Config{
				Brokers: net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)), SessionTimeout: 2 * time.Second, TopicMaxBytes: 64 << 20, Replication: 1,
			})
		},
		restart: func() error {
			s.stop()
			return s.start()
		},
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
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

// start tries for a while: the port may be busy for a moment after a stop.
func (s *kfakeServer) start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for deadline := time.Now().Add(10 * time.Second); ; <-time.After(20 * time.Millisecond) {
		cluster, err := kfake.NewCluster(
			kfake.Ports(s.port), kfake.DataDir(s.dir), kfake.GroupMinSessionTimeout(100*time.Millisecond),
			kfake.BrokerConfigs(map[string]string{"group.initial.rebalance.delay.ms": "0"}),
		)
		if err == nil {
			s.cluster = cluster
			return nil
		}
		if time.Now().After(deadline) {
			return err
		}
	}
}

func (s *kfakeServer) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cluster.Close()
}

// startKafka uses the real Kafka that others use, too (scripts/kafka.sh): it is not restarted.
func startKafka(t *testing.T) fixture {
	t.Helper()
	address := os.Getenv("TWOSTEP_TEST_KAFKA")
	if address == "" {
		t.Skip("TWOSTEP_TEST_KAFKA is not set: no Kafka to test with (scripts/kafka.sh start; eval \"$(scripts/kafka.sh env)\")")
	}
	cfg := kafkabroker.Config{Brokers: address, Prefix: fmt.Sprintf("w%d", time.Now().UnixNano()), SessionTimeout: 2 * time.Second, TopicMaxBytes: 64 << 20}
	t.Cleanup(func() { removeTopics(t, cfg) })
	return fixture{connect: func(t *testing.T) broker.Broker { return connectKafka(t, cfg) }}
}

func removeTopics(t *testing.T, cfg kafkabroker.Config) {
	t.Helper()
	c := &kafka.Client{Addr: kafka.TCP(cfg.Brokers)}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	all, err := c.Metadata(ctx, &kafka.MetadataRequest{})
	if err != nil {
		t.Error(err)
		return
	}
	var own []string
	for _, topic := range all.Topics {
		if strings.HasPrefix(topic.Name, cfg.Prefix) {
			own = append(own, topic.Name)
		}
	}
	if _, err := c.DeleteTopics(ctx, &kafka.DeleteTopicsRequest{Topics: own}); err != nil {
		t.Error(err)
	}
}

func connectKafka(t *testing.T, cfg kafkabroker.Config) broker.Broker {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	b, err := kafkabroker.Connect(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close(context.Background()) })
	return b
}
