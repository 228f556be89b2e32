package main

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/adapters/api"
	"github.com/twostep-mq/twostep/broker/nats/embedded"
	"github.com/twostep-mq/twostep/cmd/internal/database"
	"github.com/twostep-mq/twostep/configs"
)

// onStore is a configuration with the store on a database server.
func onStore(t *testing.T, s *ownServer) configs.Config {
	t.Helper()
	cfg := testConfig(t)
	cfg.Store.Driver, cfg.Store.DSN = string(s.kind), configs.Secret(s.dsn)
	return cfg
}

// readyz asks a server and returns what is wrong with its database; empty: nothing.
func readyz(t *testing.T, s *server) (status int, database string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL()+"/readyz", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var health api.Health
	raw, err := io.ReadAll(resp.Body)
	if err == nil {
		err = json.Unmarshal(raw, &health)
	}
	if err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	if database = health.Checks["database"]; database == "ok" {
		database = ""
	}
	return resp.StatusCode, database
}

// TestStoreOnServers: the registry on a database server. The server waits for it at the start, says so on /readyz when it goes away in the
// middle, and goes on by itself when it is back.
func TestStoreOnServers(t *testing.T) {
	t.Parallel()
	for _, kind := range []database.Kind{database.Postgres, database.MySQL} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			own := startOwnServer(t, kind)
			cfg := onStore(t, own)
			own.kill()
			log := &lockedBuffer{}
			started := make(chan *server, 1)
			go func() {
				s, err := startServer(context.WithoutCancel(t.Context()), cfg, slog.New(slog.NewTextHandler(log, nil)))
				if err != nil {
					t.Error(err)
				}
				started <- s
			}()
			eventually(t, 20*time.Second, func() (bool, string) {
				return strings.Contains(log.String(), "waiting for the store") && strings.Contains(log.String(), "start it, or correct the DSN"), log.String()
			})
			own.start(t)
			s := <-started
			if s == nil {
				t.FailNow()
			}
			mustRun(t, s, "topics", "create", "first")
			if status, wrong := readyz(t, s); status != http.StatusOK || wrong != "" {
				t.Errorf("readyz: %d, %s", status, wrong)
			}

			own.kill()
			eventually(t, 20*time.Second, func() (bool, string) {
				status, wrong := readyz(t, s)
				return status == http.StatusServiceUnavailable && strings.Contains(wrong, "does not answer"), wrong
			})
			mustRun(t, s, "topics", "show", "first") // what is known is still answered
			if _, errs, code := command(t, s, "topics", "create", "second"); code == exitOK {
				t.Errorf("a topic was made without a store: %s", errs)
			}
			own.start(t)
			eventually(t, 20*time.Second, func() (bool, string) {
				status, wrong := readyz(t, s)
				return status == http.StatusOK, wrong
			})
			eventually(t, 20*time.Second, func() (bool, string) {
				_, errs, code := command(t, s, "topics", "create", "second")
				return code == exitOK, errs
			})
			closeServer(t, s)

			s = startTestServer(t, cfg)
			mustRun(t, s, "topics", "show", "first")
			mustRun(t, s, "topics", "show", "second")
		})
	}
}

// TestTwoServersOnOneStore: two servers that share store and broker change the registry at the same time. Each change is made once, both
// know all of them, and no subscription has two uids.
func TestTwoServersOnOneStore(t *testing.T) {
	t.Parallel()
	for _, kind := range []database.Kind{database.Postgres, database.MySQL} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			own := startOwnServer(t, kind)
			messages, err := embedded.Start(t.Context(), embedded.Config{StoreDir: filepath.Join(t.TempDir(), "broker"), Listen: "127.0.0.1:0"})
			if err != nil {
				t.Fatal(err)
			}
			credential, err := os.ReadFile(messages.CredentialFile())
			if err != nil {
				t.Fatal(err)
			}
			user, password, _ := strings.Cut(strings.TrimSpace(string(credential)), ":")
			t.Cleanup(func() { _ = messages.Shutdown(context.WithoutCancel(t.Context())) })
			var servers []*server
			for range 2 {
				cfg := onStore(t, own)
				cfg.Broker.URL, cfg.Broker.User, cfg.Broker.Password = messages.ClientURL(), user, configs.Secret(password)
				servers = append(servers, startTestServer(t, cfg))
			}
			const topics = 12
			ended := make(chan string, len(servers))
			for i, s := range servers {
				go func() {
					var wrong []string
					for n := range topics {
						name := "t" + string(rune('a'+n))
						for _, line := range [][]string{{"topics", "create", name}, {"topics", "subscribe", name, "both"}, {"topics", "subscribe", name, "only" + string("01"[i])}} {
							_, errs, code := command(t, s, line...)
							for try := 0; code == exitConflict && try < 10; try++ { // the other one was faster every time: the caller tries again
								_, errs, code = command(t, s, line...)
							}
							if code != exitOK {
								wrong = append(wrong, strings.Join(line, " ")+": "+errs)
							}
						}
					}
					ended <- strings.Join(wrong, "")
				}()
			}
			for range servers {
				if wrong := <-ended; wrong != "" {
					t.Error(wrong)
				}
			}
			var shown [2]string
			eventually(t, 20*time.Second, func() (bool, string) {
				for i, s := range servers {
					shown[i] = registryText(t, s)
				}
				return shown[0] == shown[1] && strings.Contains(shown[0], "/"), shown[0] + "\n" + shown[1]
			})
			if n := strings.Count(shown[0], "/both "); n != topics || strings.Count(shown[0], "/only") != 2*topics {
				t.Errorf("%d subscriptions of both, want %d:\n%s", n, topics, shown[0])
			}
		})
	}
}

// registryText is what a server knows of topics and subscriptions.
func registryText(t *testing.T, s *server) string {
	t.Helper()
	var list api.TopicList
	out, errs, code := command(t, s, "topics", "list", "--json")
	if code == exitUnreachable {
		return errs // it has heard that the other one was faster, and reads the store
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatalf("%v: %s%s", err, out, errs)
	}
	var b strings.Builder
	for _, topic := range list.Topics {
		for _, sub := range topic.Subscriptions {
			b.WriteString(sub.Topic + "/" + sub.Name + " " + sub.UID + "\n")
		}
	}
	return b.String()
}
