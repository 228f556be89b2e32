package pubsubtest

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"

	"github.com/twostep-mq/twostep/adapters/watermill"
	"github.com/twostep-mq/twostep/broker"
	natsbroker "github.com/twostep-mq/twostep/broker/nats"
	"github.com/twostep-mq/twostep/broker/nats/embedded"
)

// fixture is a broker of a test's own.
type fixture struct {
	// connect makes a connection as another process would have; it is closed with the test.
	connect func(t *testing.T) broker.Broker
	// restart stops the broker and starts it with what it kept; nil: it cannot.
	restart func() error
}

// brokers are what the suite runs on: one line each.
func brokers() map[string]func(t *testing.T) fixture {
	return map[string]func(t *testing.T) fixture{
		"nats":  startNATS,
		"kfake": startKFake,
		"kafka": startKafka,
	}
}

// features are what adapters/watermill gives on every broker; docs/watermill.md says why the others are off.
func features() tests.Features {
	return tests.Features{
		ConsumerGroups:                      true,
		GuaranteedOrder:                     true,
		GuaranteedOrderWithSingleSubscriber: true,
		Persistent:                          true,
	}
}

const group = "suite"

// TestPubSub is the whole suite: a group of subscribers that share the messages.
func TestPubSub(t *testing.T) {
	t.Parallel()
	for name, start := range brokers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fx := start(t)
			f := features()
			f.RestartServiceCommand = restartCommand(t, fx)
			run(t, fx, f, watermill.SubscriberConfig{Group: group})
		})
	}
}

// TestPubSubKeyed is the suite with one reader at a time: the order is kept with any number of subscribers.
func TestPubSubKeyed(t *testing.T) {
	t.Parallel()
	for name, start := range brokers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := features()
			f.GuaranteedOrderWithSingleSubscriber = false
			run(t, start(t), f, watermill.SubscriberConfig{Group: group, Keyed: true})
		})
	}
}

// TestPubSubWithoutGroup is the part of the suite about subscribers that each get everything, what is there included.
func TestPubSubWithoutGroup(t *testing.T) {
	t.Parallel()
	for name, start := range brokers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := features()
			f.ConsumerGroups, f.NewSubscriberReceivesOldMessages = false, true
			fx := start(t)
			tests.TestNewSubscriberReceivesOldMessages(t, tests.TestContext{TestID: tests.NewTestID(), Features: f},
				fx.pubSub(watermill.SubscriberConfig{FromStart: true}))
		})
	}
}

func run(t *testing.T, fx fixture, f tests.Features, cfg watermill.SubscriberConfig) {
	t.Helper()
	tests.TestPubSub(t, f, fx.pubSub(cfg), func(t *testing.T, group string) (message.Publisher, message.Subscriber) {
		cfg := cfg
		cfg.Group = group
		return fx.pubSub(cfg)(t)
	})
}

// pubSub makes a publisher and a subscriber with a connection of their own, as a process would have.
func (fx fixture) pubSub(cfg watermill.SubscriberConfig) tests.PubSubConstructor {
	cfg.NackPause = time.Millisecond
	return func(t *testing.T) (message.Publisher, message.Subscriber) {
		b := fx.connect(t)
		pub, sub := watermill.NewPublisher(b, watermill.PublisherConfig{}), watermill.NewSubscriber(b, cfg)
		if strings.Contains(t.Name(), "TestReconnect") {
			return unhurried(pub, sub)
		}
		return pub, sub
	}
}

// natsServer is an embedded server on a port that stays the same over restarts.
type natsServer struct {
	cfg embedded.Config

	mu  sync.Mutex
	srv *embedded.Server
}

func startNATS(t *testing.T) fixture {
	t.Helper()
	root := t.TempDir()
	s := &natsServer{cfg: embedded.Config{
		StoreDir: filepath.Join(root, "broker"), CredentialFile: filepath.Join(root, "credential"), Listen: "127.0.0.1:0",
	}}
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
	url := s.srv.ClientURL()
	s.cfg.Listen = url[len("nats://"):]
	credential := s.srv.Credential()
	t.Cleanup(func() {
		if err := s.stop(); err != nil {
			t.Error(err)
		}
	})
	return fixture{
		connect: func(t *testing.T) broker.Broker {
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			b, err := natsbroker.Connect(ctx, natsbroker.Config{
				URL: url, User: credential.User, Password: credential.Password, TopicMaxBytes: 64 << 20, ReconnectWait: 20 * time.Millisecond,
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = b.Close(context.Background()) })
			return b
		},
		restart: func() error {
			if err := s.stop(); err != nil {
				return err
			}
			return s.start()
		},
	}
}

func (s *natsServer) start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	s.srv, err = embedded.Start(context.Background(), s.cfg)
	return err
}

func (s *natsServer) stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return s.srv.Shutdown(ctx)
}
