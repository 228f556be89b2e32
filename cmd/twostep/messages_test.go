package main

import (
	"bytes"
	"context"
	"database/sql"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/adapters/sqlite"
	natsbroker "github.com/twostep-mq/twostep/broker/nats"
	"github.com/twostep-mq/twostep/configs"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

var update = flag.Bool("update", false, "write the golden files of TestBadInputHasAMessage anew")

// said is one message that bad input gets.
type said struct {
	// about says which one it is, in the golden file.
	about, text string
	// key is what was wrong: the key, the name or the value. next is part of the next step. Both must stand in the message.
	key, next string
}

// messageCase is one kind of bad input. Its golden file has its name.
type messageCase struct {
	name string
	run  func(t *testing.T) []said
}

// messageCases is the whole list of the first release.
func messageCases() []messageCase {
	return []messageCase{
		{"unknown topic with declare off", sayUnknownTopic},
		{"payload over the limit", sayPayload},
		{"invalid gid", sayInvalidGID},
		{"duplicate gid", sayDuplicateGID},
		{"no transaction", sayNoTransaction},
		{"database not opened through sqlite.Open", sayForeignDatabase},
		{"port in use", sayPortInUse},
		{"data folder in use", sayFolderInUse},
		{"misspelt key", sayMisspeltKey},
		{"full disk", sayFullDisk},
		{"wrong password", sayWrongPassword},
		{"unknown database", sayUnknownDatabase},
		{"unreachable server", sayUnreachable},
		{"missing migrations", sayMissingMigrations},
		{"no DSN", sayNoDSN},
	}
}

// Bad input is answered with the offending key or value and the next step, word for word as in testdata/golden.
func TestBadInputHasAMessage(t *testing.T) {
	t.Parallel()
	const folder = "testdata/golden"
	known := []string{}
	for _, c := range messageCases() {
		file := filepath.Join(folder, strings.ReplaceAll(c.name, " ", "-")+".txt")
		known = append(known, file)
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var got strings.Builder
			for _, s := range c.run(t) {
				if !strings.Contains(s.text, s.key) || !strings.Contains(s.text, s.next) || s.key == "" || s.next == "" {
					t.Errorf("%s: the message lacks %q or %q: %s", s.about, s.key, s.next, s.text)
				}
				if strings.Contains(s.text, "\n") {
					t.Errorf("%s: more than a line: %q", s.about, s.text)
				}
				fmt.Fprintf(&got, "# %s\n%s\n", s.about, s.text)
			}
			if *update && !t.Failed() {
				if err := os.WriteFile(file, []byte(got.String()), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatalf("%v: write it with: go test ./cmd/twostep -run %s -update", err, "TestBadInputHasAMessage")
			}
			if got.String() != string(want) {
				t.Errorf("got\n%s\nwant (%s)\n%s", got.String(), file, want)
			}
		})
	}
	files, err := filepath.Glob(filepath.Join(folder, "*.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if !slices.Contains(known, file) {
			t.Errorf("%s belongs to no case", file)
		}
	}
}

// messageText is the text of an error that there must be.
func messageText(t *testing.T, err error) string {
	t.Helper()
	if err == nil {
		t.Fatal("it was accepted")
	}
	return err.Error()
}

// sender is a service's database with its outbox.
type sender struct {
	path  string
	db    *sql.DB
	store *sqlite.Outbox
	box   *outbox.Outbox
}

func newSender(t *testing.T, cfg outbox.Config) *sender {
	t.Helper()
	s := &sender{path: filepath.Join(t.TempDir(), "bank.db")}
	var err error
	if s.db, err = sqlite.Open(s.path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.db.Close() })
	if err := sqlite.Migrate(t.Context(), s.db, sqlite.Service); err != nil {
		t.Fatal(err)
	}
	if s.store, err = sqlite.NewOutbox(t.Context(), s.db); err != nil {
		t.Fatal(err)
	}
	if s.box, err = outbox.New(t.Context(), s.store, cfg); err != nil {
		t.Fatal(err)
	}
	return s
}

// publish publishes in a transaction of its own.
func (s *sender) publish(ctx context.Context, m outbox.Message) error {
	return s.box.Transact(ctx, func(tx outbox.Tx) error {
		_, err := s.box.Publish(ctx, tx, m)
		return err
	})
}

// rows counts what is not released.
func (s *sender) rows(t *testing.T) (n int) {
	t.Helper()
	if err := s.db.QueryRowContext(t.Context(), `SELECT count(*) FROM twostep_outbox`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// connect makes a connection to the server's broker, as a service in this process.
func connect(t *testing.T, s *server, cfg natsbroker.Config) *natsbroker.Broker {
	t.Helper()
	b, err := s.embedded.Connect(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close(context.WithoutCancel(t.Context())) })
	return b
}

// inBackground runs a service until the test ends.
func inBackground(t *testing.T, run func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("a service ended: %v", err)
		}
	})
}

// The receiving side's messages are in topics, TestAppDeclareOff.
func sayUnknownTopic(t *testing.T) []said {
	s := startTestServer(t, testConfig(t))
	mustRun(t, s, "topics", "create", "bank.in")
	app := topics.NewApp(connect(t, s, natsbroker.Config{}), nil, topics.AppConfig{Declare: topics.DeclareOff})
	inBackground(t, app.Run)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := app.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	bank := newSender(t, outbox.Config{Known: app.Known})
	if err := bank.publish(ctx, outbox.Message{Topic: "bank.in", Payload: []byte("{}")}); err != nil {
		t.Errorf("a topic that is there: %v", err)
	}
	text := messageText(t, bank.publish(ctx, outbox.Message{Topic: "bank.out", Payload: []byte("{}")}))
	// Made, it is known within moments, without a restart.
	mustRun(t, s, "topics", "create", "bank.out")
	eventually(t, 10*time.Second, func() (bool, string) { return app.Known("bank.out"), "bank.out is not known" })
	return []said{{"publish", text, "bank.out", "twostep topics create bank.out"}}
}

func sayPayload(t *testing.T) []said {
	bank := newSender(t, outbox.Config{})
	if err := bank.publish(t.Context(), outbox.Message{Topic: "bank.in", Payload: make([]byte, outbox.MaxPayload)}); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	err := bank.publish(t.Context(), outbox.Message{Topic: "bank.in", Payload: make([]byte, outbox.MaxPayload+1)})
	return []said{{"publish", messageText(t, err), "1000001 bytes", "send a reference"}}
}

func sayInvalidGID(t *testing.T) []said {
	bank := newSender(t, outbox.Config{})
	var all []said
	for _, gid := range []string{"order 17", "Auftrag-ä", strings.Repeat("x", 129)} {
		err := bank.publish(t.Context(), outbox.Message{Topic: "bank.in", GID: gid, Payload: []byte("{}")})
		all = append(all, said{fmt.Sprintf("publish, %d bytes", len(gid)), messageText(t, err), gid[:8], "use 1 to 128 bytes of [A-Za-z0-9._:-]"})
	}
	if n := bank.rows(t); n != 0 {
		t.Errorf("%d rows were written", n)
	}
	return all
}

func sayDuplicateGID(t *testing.T) []said {
	bank := newSender(t, outbox.Config{})
	m := outbox.Message{Topic: "bank.in", GID: "order-17", Payload: []byte("{}")}
	if err := bank.publish(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	text := messageText(t, bank.publish(t.Context(), m))
	if n := bank.rows(t); n != 1 {
		t.Errorf("%d rows, want 1", n)
	}
	return []said{{"publish a second time", text, `"order-17"`, "roll this transaction back"}}
}

// The compiler refuses what is no transaction; with *sql.Tx the same program compiles.
func sayNoTransaction(t *testing.T) []said {
	build := func(folder string) (string, error) {
		out, err := exec.CommandContext(t.Context(), "go", "build", "./testdata/transaction/"+folder).CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	if out, err := build("tx"); err != nil {
		t.Errorf("*sql.Tx: %v: %s", err, out)
	}
	var all []said
	for _, wrong := range []struct{ folder, kind string }{{"db", "*sql.DB"}, {"conn", "*sql.Conn"}} {
		out, err := build(wrong.folder)
		if err == nil {
			t.Errorf("%s compiles", wrong.kind)
		}
		_, text, found := strings.Cut(out, "publish.go:13:29: ")
		if !found {
			t.Errorf("%s: the compiler said something else: %s", wrong.kind, out)
		}
		all = append(all, said{wrong.kind, text, wrong.kind, "missing method Commit"})
	}
	return all
}

func sayForeignDatabase(t *testing.T) []said {
	db, err := sql.Open("sqlite3", filepath.Join(t.TempDir(), "bank.db")) // the driver's own name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	var all []said
	for _, use := range []struct {
		about string
		with  func() error
	}{
		{"Migrate", func() error { return sqlite.Migrate(t.Context(), db, sqlite.Service) }},
		{"NewOutbox", func() error { _, err := sqlite.NewOutbox(t.Context(), db); return err }},
		{"NewConsumer", func() error { _, err := sqlite.NewConsumer(t.Context(), db); return err }},
		{"NewRegistry", func() error { _, err := sqlite.NewRegistry(t.Context(), db); return err }},
	} {
		all = append(all, said{use.about, messageText(t, use.with()), "*sqlite3.SQLiteDriver", "open it with sqlite.Open"})
	}
	return all
}

// refusedStart is the message of a server that does not start. What it opened it gives up again: with the cause gone it starts.
func refusedStart(t *testing.T, cfg configs.Config, repair func(*configs.Config)) string {
	t.Helper()
	_, err := startServer(t.Context(), cfg, slog.New(slog.DiscardHandler))
	text := messageText(t, err)
	repair(&cfg)
	startTestServer(t, cfg)
	return text
}

func sayPortInUse(t *testing.T) []said {
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() })
	address := taken.Addr().String()
	web, broker := testConfig(t), testConfig(t)
	web.HTTP.Listen, broker.Broker.Listen = address, address
	all := []said{
		{"HTTP", refusedStart(t, web, func(c *configs.Config) { c.HTTP.Listen = "127.0.0.1:0" }), "http.listen", "to another address"},
		{"broker", refusedStart(t, broker, func(c *configs.Config) { c.Broker.Listen = "127.0.0.1:0" }), "broker.listen", "to another address"},
	}
	for i := range all {
		if !strings.Contains(all[i].text, address) {
			t.Errorf("%s: the address is missing: %s", all[i].about, all[i].text)
		}
		all[i].text = strings.ReplaceAll(all[i].text, address, "ADDRESS")
	}
	return all
}

func sayFolderInUse(t *testing.T) []said {
	running := startTestServer(t, testConfig(t))
	cfg := testConfig(t)
	cfg.Data = running.folder.path
	text := refusedStart(t, cfg, func(*configs.Config) { closeServer(t, running) })
	text = strings.NewReplacer(cfg.Data, "DATA", strconv.Itoa(os.Getpid()), "PID").Replace(text)
	return []said{{"serve", text, "data folder DATA is in use by process PID", "--data or TWOSTEP_DATA"}}
}

func sayMisspeltKey(t *testing.T) []said {
	file := filepath.Join(t.TempDir(), "my.yaml")
	if err := os.WriteFile(file, []byte("broker:\n  lisen: 127.0.0.1:1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, errs, code := command(t, nil, "serve", "--config", file)
	if code != exitUsage {
		t.Errorf("exit code %d", code)
	}
	text := strings.TrimSuffix(strings.ReplaceAll(errs, file, "FILE"), "\n")
	return []said{{"serve", text, "broker.lisen;", "did you mean broker.listen?"}}
}

// logLines collects what is logged, without times.
type logLines struct{ lockedBuffer }

func (l *logLines) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

// with is the first line that holds part; empty: there is none.
func (l *logLines) with(part string) string {
	for line := range bytes.Lines([]byte(l.String())) {
		if bytes.Contains(line, []byte(part)) {
			return strings.TrimSuffix(string(line), "\n")
		}
	}
	return ""
}
