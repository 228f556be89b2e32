package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/twostep-mq/twostep/adapters/api"
)

// command runs one command line against a server (nil: none) and returns what it printed and its exit code.
func command(t *testing.T, s *server, line ...string) (stdout, stderr string, code int) {
	t.Helper()
	if s != nil {
		line = append(line, "--server", s.URL())
	}
	var out, errs bytes.Buffer
	root := newRootCommand()
	root.SetArgs(line)
	root.SetOut(&out)
	root.SetErr(&errs)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	code = report(root.ExecuteContext(ctx), &errs)
	return out.String(), errs.String(), code
}

func mustRun(t *testing.T, s *server, line ...string) string {
	t.Helper()
	out, errs, code := command(t, s, line...)
	if code != exitOK {
		t.Fatalf("twostep %s: exit code %d: %s", strings.Join(line, " "), code, errs)
	}
	return out
}

func TestTopicCommands(t *testing.T) {
	t.Parallel()
	s := startTestServer(t, testConfig(t))
	steps := []struct {
		line string
		code int
		want string // part of stdout, or of stderr where the code is not 0
	}{
		{"topics list", exitOK, "TOPIC  DELIVERY  NO SUBSCRIBERS  KEYED  SUBSCRIPTIONS\n"},
		{"topics create bank.in --keyed", exitOK, "topic bank.in is there: delivery confirmed, no_subscribers hold, keyed true, 0 subscriptions\n"},
		{"topics create bank.in --keyed", exitOK, "topic bank.in is there"},
		{"topics create bank.in", exitConflict, "bank.in has delivery confirmed, no_subscribers hold, keyed true: delete it first, or take another name"},
		{"topics create bank..in", exitUsage, `topic "bank..in"`},
		{"topics create x --delivery maybe", exitUsage, `delivery is "maybe": use confirmed or broker`},
		{"topics subscribe bank.in accounts", exitOK, "subscription bank.in/accounts is active: "},
		{"topics subscribe bank.in accounts", exitOK, "subscription bank.in/accounts is active: "},
		{"topics subscribe bank.out accounts", exitNotFound, `unknown topic "bank.out": make it with: twostep topics create bank.out`},
		{"topics list", exitOK, "bank.in  confirmed  hold            true   1\n"},
		{"topics show bank.in", exitOK, "accounts      active"},
		{"topics show bank.out", exitNotFound, "bank.out"},
		{"topics unsubscribe bank.in accounts", exitOK, "subscription bank.in/accounts is removed\n"},
		{"topics unsubscribe bank.in accounts", exitNotFound, "accounts"},
		{"topics delete bank.in", exitOK, "topic bank.in is deleted; nothing of it was in flight\n"},
		{"topics delete bank.in", exitNotFound, "bank.in"},
		{"outbox list", exitOK, "OUTBOX  UUID  BACKLOG  UNPUBLISHED  OLDEST  RELAY  REPORTED  WAITING FOR  STUCK\n"},
		{"outbox stuck --json", exitOK, `"outboxes": []`},
		{"outbox forget nobody", exitNotFound, "twostep outbox list"},
		{"transactions list", exitOK, "GID  TOPIC  KEY  STATE  AGE  WAITING FOR  PARKED\n"},
		{"transactions show nothing", exitNotFound, "no message of global transaction nothing is unreleased or parked"},
		{"dead list", exitOK, "SUBSCRIPTION  ID  KEY  STATE  ATTEMPTS  PARKED FOR  REASON\n"},
		{"dead list --state odd", exitUsage, `state is "odd": use dead, waiting, held or all`},
		{"dead list --limit 501", exitUsage, "use a number from 1 to 500"},
		{"dead replay bank.in/accounts x", exitNotFound, "bank.in"},
	}
	for _, step := range steps {
		out, errs, code := command(t, s, strings.Fields(step.line)...)
		got := out
		if step.code != exitOK {
			got = errs
		}
		if code != step.code || !strings.Contains(got, step.want) {
			t.Errorf("twostep %s: exit code %d, want %d\ngot  %s%s\nwant %s", step.line, code, step.code, out, errs, step.want)
		}
	}
}

func TestListingsAreJSON(t *testing.T) {
	t.Parallel()
	s := startTestServer(t, testConfig(t))
	mustRun(t, s, "topics", "create", "a")
	mustRun(t, s, "topics", "subscribe", "a", "b")
	for _, line := range []string{"topics list", "topics show a", "outbox list", "outbox stuck", "transactions list", "dead list"} {
		out, _, code := command(t, s, append(strings.Fields(line), "--json")...)
		var v map[string]any
		if err := json.Unmarshal([]byte(out), &v); code != exitOK || err != nil || len(v) == 0 {
			t.Errorf("%s --json: exit code %d, %v: %s", line, code, err, out)
		}
	}
}

// A subscription that no process runs is named, on stderr, and the listing still comes.
func TestSilentSubscriptionIsNamed(t *testing.T) {
	t.Parallel()
	s := startTestServer(t, testConfig(t))
	mustRun(t, s, "topics", "create", "a")
	mustRun(t, s, "topics", "subscribe", "a", "b")
	out, errs, code := command(t, s, "dead", "list", "--json")
	if code != exitOK || !strings.Contains(out, `"kind": "subscription"`) || !strings.Contains(errs, "subscription a/b (") || !strings.Contains(errs, "no process that runs it is connected") {
		t.Errorf("exit code %d\n%s%s", code, out, errs)
	}
	if _, errs, code := command(t, s, "dead", "show", "a/b", "x"); code != exitUnreachable || !strings.Contains(errs, "start the service that runs it") {
		t.Errorf("exit code %d: %s", code, errs)
	}
}

func TestCommandLineMistakes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		line []string
		code int
		want string
	}{
		{[]string{"topcs"}, exitUsage, "twostep: twostep has no command \"topcs\": use topics; see twostep --help\n"},
		{[]string{"topics", "shw"}, exitUsage, "twostep: twostep topics has no command \"shw\": use show; see twostep topics --help\n"},
		{[]string{"topics", "create"}, exitUsage, "twostep: twostep topics create: NAME is missing; usage: twostep topics create NAME\n"},
		{[]string{"topics", "create", ""}, exitUsage, "twostep: twostep topics create: NAME is empty; usage: twostep topics create NAME\n"},
		{[]string{"version", "now"}, exitUsage, "twostep: twostep version: too many arguments; usage: twostep version\n"},
		{[]string{"serve", "--prot", "1"}, exitUsage, "twostep: twostep serve: unknown flag: --prot; see twostep serve --help\n"},
		{[]string{"serve", "--http-listen", "0.0.0.0:1"}, exitUsage, "twostep: configuration key http.listen has the value \"0.0.0.0:1\" (from --http-listen): other machines could reach it, which is refused until tokens and TLS exist: use a loopback address, as 127.0.0.1:1\n"},
		{[]string{"topics", "list", "--server", "127.0.0.1:1"}, exitUsage, "twostep: server address \"127.0.0.1:1\": use a URL, as http://127.0.0.1:36789\n"},
		{[]string{"topics", "list", "--server", "http://127.0.0.1:1"}, exitUnreachable, "twostep: no twostep server answers at http://127.0.0.1:1 (dial tcp 127.0.0.1:1: connect: connection refused): start one with twostep serve, or name another with --server or TWOSTEP_SERVER\n"},
		{[]string{"migrate"}, exitUsage, "twostep: --dsn is missing: name the database's file, as --dsn bank.db\n"},
		{[]string{"migrate", "--driver", "oracle"}, exitUsage, "twostep: --driver: \"oracle\" is no kind of database: use sqlite, postgres or mysql\n"},
		{[]string{"migrate", "--for", "me"}, exitUsage, "twostep: --for is \"me\": use service or orchestrator\n"},
	} {
		out, errs, code := command(t, nil, tt.line...)
		if code != tt.code || errs != tt.want || out != "" {
			t.Errorf("twostep %q: exit code %d\ngot  %s%s\nwant %s", tt.line, code, errs, out, tt.want)
		}
	}
}

func TestConfigShow(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	t.Setenv("TWOSTEP_BROKER_URL", "nats://elsewhere:4222")
	t.Setenv("TWOSTEP_BROKER_PASSWORD", "hunter2")
	t.Setenv("TWOSTEP_STORE_DSN", "postgres://u:hunter2@h/d")
	t.Setenv("TWOSTEP_STORE_DRIVER", "postgres")
	out := mustRun(t, nil, "config", "show", "--log-level", "debug")
	for _, want := range []string{"log.level                      debug                  --log-level\n", "broker.password                ***                    TWOSTEP_BROKER_PASSWORD\n", "data                           ./twostep-data         default\n",
		"store.dsn                      ***                    TWOSTEP_STORE_DSN\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("missing %q in\n%s", want, out)
		}
	}
	if asJSON := mustRun(t, nil, "config", "show", "--json"); strings.Contains(out+asJSON, "hunter2") || !json.Valid([]byte(asJSON)) {
		t.Errorf("secret or no JSON: %s", asJSON)
	}
}

func TestMigrate(t *testing.T) {
	t.Parallel()
	db := filepath.Join(t.TempDir(), "bank.db")
	if _, errs, code := command(t, nil, "migrate", "--dsn", db, "--status"); code != exitFailure || !strings.Contains(errs, db) {
		t.Errorf("status of no file: exit code %d: %s", code, errs)
	}
	for _, set := range []string{"service", "orchestrator"} {
		sql := mustRun(t, nil, "migrate", "--print", "--for", set)
		if !strings.Contains(sql, "CREATE TABLE twostep_") {
			t.Errorf("%s: no tables in %s", set, sql)
		}
		if out := mustRun(t, nil, "migrate", "--dsn", db, "--for", set); !strings.Contains(out, "has the tables of set "+set) {
			t.Error(out)
		}
		if out := mustRun(t, nil, "migrate", "--dsn", db, "--for", set, "--status"); strings.Contains(out, "missing") || !strings.Contains(out, "00001") {
			t.Error(out)
		}
	}
}

// Every command explains itself and shows how it is used.
func TestEveryCommandHasHelp(t *testing.T) {
	t.Parallel()
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Hidden || cmd.Name() == "help" || cmd.Name() == "completion" {
			return
		}
		if cmd.Short == "" || !cmd.HasSubCommands() && cmd.Example == "" {
			t.Errorf("%s has no summary or no example", cmd.CommandPath())
		}
		for line := range strings.SplitSeq(cmd.Example, "\n") {
			if line != "" && !strings.Contains(line, "twostep ") {
				t.Errorf("%s: the example %q runs nothing", cmd.CommandPath(), line)
			}
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(newRootCommand())
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	reference, err := os.ReadFile("../../docs/reference.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"| 0 | ok |", "| 1 | failure |", "| 2 | the command line", "| 3 | what was named is not there |", "| 4 | no server answers", "| 5 | refused in this state"} {
		if !strings.Contains(string(reference), line) {
			t.Errorf("docs/reference.md lacks %q", line)
		}
	}
	for code, want := range map[string]int{
		api.CodeNotFound: exitNotFound, api.CodeConflict: exitConflict, api.CodeInvalid: exitUsage, api.CodeUnavailable: exitUnreachable, api.CodeInternal: exitFailure,
	} {
		if got := exitCode(&api.Problem{Code: code}); got != want {
			t.Errorf("%s is %d, want %d", code, got, want)
		}
	}
}

func TestTablesCannotMoveTheCursor(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := printTable(&out, []string{"A"}, [][]string{{"x\x1b[2Jy\r\n\u009bz"}, {""}}); err != nil {
		t.Fatal(err)
	}
	if want := "A\nx [2Jy   z\n-\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
	if got := payloadText([]byte("a\x1b[2J\nb")); got != "a [2J\nb" {
		t.Errorf("payload %q", got)
	}
}
