package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	natsbroker "github.com/twostep-mq/twostep/broker/nats"
	"github.com/twostep-mq/twostep/configs"
)

// testConfig is the default on free ports, in a folder of the test's own.
func testConfig(t *testing.T) configs.Config {
	t.Helper()
	cfg := configs.Defaults()
	cfg.Data = filepath.Join(t.TempDir(), "data")
	cfg.HTTP.Listen, cfg.Broker.Listen = "127.0.0.1:0", "127.0.0.1:0"
	return cfg
}

// startTestServer starts a server that ends with the test.
func startTestServer(t *testing.T, cfg configs.Config) *server {
	t.Helper()
	s, err := startServer(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeServer(t, s) })
	return s
}

func closeServer(t *testing.T, s *server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		t.Errorf("close: %v", err)
	}
}

func TestServerAnswersAtOnce(t *testing.T) {
	t.Parallel()
	s := startTestServer(t, testConfig(t))
	for _, path := range []string{"/healthz", "/readyz", "/metrics", "/api/v1/topics", "/api/v1/outboxes"} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err := errors.Join(err, resp.Body.Close()); err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %d %s %v", path, resp.StatusCode, body, err)
		}
	}
}

func TestServerKeepsItsRegistry(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	s := startTestServer(t, cfg)
	mustRun(t, s, "topics", "create", "kept", "--keyed")
	mustRun(t, s, "topics", "subscribe", "kept", "reader")
	before := mustRun(t, s, "topics", "show", "kept", "--json")
	closeServer(t, s)

	// The broker's folder is a cache: without it the registry is the same.
	for _, wipe := range []bool{false, true} {
		if wipe {
			if err := os.RemoveAll(filepath.Join(cfg.Data, brokerFolder)); err != nil {
				t.Fatal(err)
			}
		}
		s = startTestServer(t, cfg)
		if after := mustRun(t, s, "topics", "show", "kept", "--json"); after != before {
			t.Errorf("wiped %t: before %s after %s", wipe, before, after)
		}
		closeServer(t, s)
	}
}

func TestServiceInAnotherProcessConnects(t *testing.T) {
	t.Parallel()
	s := startTestServer(t, testConfig(t))
	info, err := os.Stat(s.CredentialFile())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("credential: %v, %v", info, err)
	}
	raw, err := os.ReadFile(s.CredentialFile())
	if err != nil {
		t.Fatal(err)
	}
	user, password, _ := strings.Cut(strings.TrimSpace(string(raw)), ":")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	b, err := natsbroker.Connect(ctx, natsbroker.Config{URL: s.BrokerURL(), User: user, Password: password})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(ctx); err != nil {
		t.Error(err)
	}
	if _, err := natsbroker.Connect(ctx, natsbroker.Config{URL: s.BrokerURL(), User: user, Password: "guess"}); err == nil {
		t.Error("a wrong password was taken")
	}
}

func TestServerStopsWhenItsFolderIsReplaced(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"", lockFile, serverDatabase, brokerFolder} {
		t.Run("moved "+what, func(t *testing.T) {
			t.Parallel()
			s := startTestServer(t, testConfig(t))
			path := s.folder.path
			if what != "" {
				path = s.folder.file(what)
			}
			if err := os.Rename(path, path+".moved"); err != nil {
				t.Fatal(err)
			}
			// Put back, so that closing finds its files.
			t.Cleanup(func() { _ = os.Rename(path+".moved", path) })
			select {
			case err := <-s.Failed():
				if want := fmt.Sprintf("%s is gone while the server runs", path); !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want %s", err, want)
				}
			case <-time.After(4 * folderBeat):
				t.Error("the server goes on")
			}
		})
	}
}

func TestServeDrainsAndSaysHowToConnect(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	reader, writer := io.Pipe()
	ended := make(chan error, 1)
	var logs bytes.Buffer
	go func() {
		ended <- serve(ctx, cfg, writer, slog.New(slog.NewJSONHandler(&logs, nil)))
		_ = writer.Close()
	}()
	text := make([]byte, 4096)
	n, err := reader.Read(text)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for _, want := range []string{"twostep is ready", "http://127.0.0.1:", "nats://127.0.0.1:", filepath.Join(cfg.Data, credentialFile), "export TWOSTEP_BROKER_URL=", "export TWOSTEP_SERVER="} {
		if !strings.Contains(string(text[:n]), want) {
			t.Errorf("missing %q in:\n%s", want, text[:n])
		}
	}
	raw, err := os.ReadFile(filepath.Join(cfg.Data, credentialFile))
	if err != nil {
		t.Fatal(err)
	}
	_, password, _ := strings.Cut(strings.TrimSpace(string(raw)), ":")
	if strings.Contains(string(text[:n])+logs.String(), password) {
		t.Error("the password was printed")
	}
	var first map[string]any
	if err := json.Unmarshal(bytes.SplitN(logs.Bytes(), []byte("\n"), 2)[0], &first); err != nil {
		t.Errorf("the log is no JSON: %v", err)
	}
}
