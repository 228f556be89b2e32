package embedded_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/twostep-mq/twostep/broker"
	natsbroker "github.com/twostep-mq/twostep/broker/nats"
	"github.com/twostep-mq/twostep/broker/nats/embedded"
)

func start(t *testing.T, cfg embedded.Config) *embedded.Server {
	t.Helper()
	s, err := embedded.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, s) })
	return s
}

func stop(t *testing.T, s *embedded.Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Error(err)
	}
}

// Within the process, without listening: messages and credential outlive the server.
func TestInProcess(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "broker")
	var credential embedded.Credential
	for round := range 2 {
		s, err := embedded.Start(t.Context(), embedded.Config{StoreDir: dir, SyncAlways: round == 1})
		if err != nil {
			t.Fatal(err)
		}
		if s.ClientURL() != "" {
			t.Errorf("a server that does not listen has address %q", s.ClientURL())
		}
		b, err := s.Connect(t.Context(), natsbroker.Config{})
		if err != nil {
			t.Fatal(err)
		}
		if err := b.EnsureTopic(t.Context(), broker.TopicSpec{Name: "t"}); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		b.Publish(t.Context(), []*broker.Message{{ID: "m", Topic: "t"}}, func(_ int, p broker.Position, err error) {
			if err == nil && p.Offset != uint64(round+1) {
				err = fmt.Errorf("offset %d in round %d", p.Offset, round)
			}
			done <- err
		})
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if round == 0 {
			credential = s.Credential()
		} else if s.Credential() != credential {
			t.Error("the credential changed with a restart")
		}
		if err := b.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		stop(t, s)
	}
}

func TestCredential(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	path := filepath.Join(root, "secrets", "credential")
	s := start(t, embedded.Config{StoreDir: filepath.Join(root, "broker"), CredentialFile: path, Listen: "127.0.0.1:0"})
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("credential file: %v, %v", info, err)
	}
	text, err := os.ReadFile(path)
	c := s.Credential()
	if want := c.User + ":" + c.Password + "\n"; err != nil || string(text) != want || len(c.Password) < 20 {
		t.Errorf("credential file has %q, want %q", text, want)
	}
	if printed := fmt.Sprintf("%v %+v %#v %s", c, c, c, c); strings.Contains(printed, c.Password) {
		t.Errorf("the password is printed: %s", printed)
	}
	for _, option := range []nats.Option{nats.UserInfo(c.User, "wrong"), nats.Name("nobody")} {
		if nc, err := nats.Connect(s.ClientURL(), option); err == nil {
			nc.Close()
			t.Error("connected without the credential")
		}
	}
	if _, err := natsbroker.Connect(t.Context(), natsbroker.Config{URL: s.ClientURL(), User: c.User, Password: "wrong"}); err == nil || !strings.Contains(err.Error(), "broker.password") {
		t.Errorf("wrong password: %v", err)
	}
	b, err := natsbroker.Connect(t.Context(), natsbroker.Config{URL: s.ClientURL(), User: c.User, Password: c.Password})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestStartRefuses(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	taken := l.Addr().String()
	open := filepath.Join(t.TempDir(), "open")
	if err := os.WriteFile(open, []byte("a:b\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	garbage := filepath.Join(t.TempDir(), "garbage")
	if err := os.WriteFile(garbage, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	used := filepath.Join(t.TempDir(), "used")
	start(t, embedded.Config{StoreDir: used})
	tests := map[string]struct {
		cfg  embedded.Config
		want []string
	}{
		"any address":       {embedded.Config{Listen: "0.0.0.0:0"}, []string{"broker.listen", "loopback"}},
		"another machine's": {embedded.Config{Listen: "192.0.2.1:36792"}, []string{"broker.listen", "loopback"}},
		"a name":            {embedded.Config{Listen: "example.com:36792"}, []string{"broker.listen", "loopback"}},
		"no host":           {embedded.Config{Listen: ":36792"}, []string{"broker.listen", "loopback"}},
		"no port":           {embedded.Config{Listen: "127.0.0.1"}, []string{"broker.listen"}},
		"port too high":     {embedded.Config{Listen: "127.0.0.1:70000"}, []string{"broker.listen"}},
		"port in use":       {embedded.Config{Listen: taken}, []string{taken, "in use", "broker.listen"}},
		"folder in use":     {embedded.Config{StoreDir: used}, []string{used, "in use"}},
		"open credential":   {embedded.Config{CredentialFile: open}, []string{open, "chmod 600"}},
		"broken credential": {embedded.Config{CredentialFile: garbage}, []string{garbage, "delete it"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if test.cfg.StoreDir == "" {
				test.cfg.StoreDir = filepath.Join(t.TempDir(), "broker")
			}
			s, err := embedded.Start(t.Context(), test.cfg)
			if err == nil {
				stop(t, s)
				t.Fatal("it started")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not mention %q", err, want)
				}
			}
		})
	}
	// A refused start leaves the folder free.
	dir := filepath.Join(t.TempDir(), "broker")
	if _, err := embedded.Start(t.Context(), embedded.Config{StoreDir: dir, Listen: taken}); err == nil {
		t.Fatal("it started")
	}
	start(t, embedded.Config{StoreDir: dir})
}
