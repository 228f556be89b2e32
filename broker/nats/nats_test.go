package nats_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/broker/brokertest"
	natsbroker "github.com/twostep-mq/twostep/broker/nats"
	"github.com/twostep-mq/twostep/broker/nats/embedded"
)

// fixture is a server of a test's own, on a port that stays the same over restarts.
type fixture struct {
	dir, credential string
	listen          string

	mu  sync.Mutex
	srv *embedded.Server
}

func startServer(t testing.TB) *fixture {
	t.Helper()
	root := t.TempDir()
	f := &fixture{dir: filepath.Join(root, "broker"), credential: filepath.Join(root, "credential"), listen: "127.0.0.1:0"}
	f.start(t)
	url := f.server().ClientURL()
	f.listen = url[len("nats://"):]
	t.Cleanup(func() { f.stop(t) })
	return f
}

func (f *fixture) server() *embedded.Server {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.srv
}

func (f *fixture) start(t testing.TB) {
	t.Helper()
	srv, err := embedded.Start(context.Background(), embedded.Config{StoreDir: f.dir, CredentialFile: f.credential, Listen: f.listen})
	if err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.srv = srv
}

func (f *fixture) stop(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := f.server().Shutdown(ctx); err != nil {
		t.Error(err)
	}
}

func (f *fixture) config() natsbroker.Config {
	c := f.server().Credential()
	cfg := natsbroker.Config{
		URL: f.server().ClientURL(), User: c.User, Password: c.Password,
		AckWait: 2 * time.Second, PinTTL: 500 * time.Millisecond, InboxMessages: 100, ReconnectWait: 20 * time.Millisecond,
		TopicMaxBytes: 64 << 20, InboxMaxBytes: 64 << 20,
	}
	if os.Getenv("TWOSTEP_TEST_LOG") != "" {
		cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return cfg
}

func (f *fixture) connect(t testing.TB, cfg natsbroker.Config) *natsbroker.Broker {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	b, err := natsbroker.Connect(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := b.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return b
}

func TestSuite(t *testing.T) {
	t.Parallel()
	brokertest.Run(t, func(t *testing.T) brokertest.Harness {
		f := startServer(t)
		return brokertest.Harness{
			Connect: func(t *testing.T) broker.Broker { return f.connect(t, f.config()) },
			Restart: func(t *testing.T) { f.stop(t); f.start(t) },
			Wipe: func(t *testing.T) {
				f.stop(t)
				if err := os.RemoveAll(f.dir); err != nil {
					t.Fatal(err)
				}
				f.start(t)
			},
			Foreign: func(t *testing.T, topic, payload, header, value string) {
				publishForeign(t, f, topic, payload, header, value)
			},
			Silence:       2 * time.Second,
			InboxMessages: 100,
			TooLarge:      2 << 20,
		}
	})
}

// publishForeign publishes with the client alone, as another program would.
func publishForeign(t testing.TB, f *fixture, topic, payload, header, value string) {
	t.Helper()
	c := f.server().Credential()
	nc, err := nats.Connect(f.server().ClientURL(), nats.UserInfo(c.User, c.Password))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_, err = nc.RequestMsg(&nats.Msg{
		Subject: "twostep.t." + topic + ".p0", Data: []byte(payload), Header: nats.Header{header: {value}},
	}, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
}
