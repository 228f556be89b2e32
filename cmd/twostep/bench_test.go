package main

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/cmd/internal/database"
)

// runBenchJSON runs one suite with few transfers and returns its JSON.
func runBenchJSON(t *testing.T, suite string, more ...string) map[string]any {
	t.Helper()
	args := append([]string{"bench", suite, "--json", "--pairs", "1", "--dir", t.TempDir()}, more...)
	var stdout, stderr bytes.Buffer
	if code := run(args, &stdout, &stderr); code != exitOK {
		t.Fatalf("twostep %s: exit code %d: %s", strings.Join(args, " "), code, &stderr)
	}
	var report map[string]any
	if err := json.Unmarshal(stdout.Bytes(), &report); err != nil {
		t.Fatalf("stdout is not one JSON object: %v\n%s", err, &stdout)
	}
	return report
}

// wantFigures checks that the keys a program relies on are there and above zero.
func wantFigures(t *testing.T, figures map[string]any, keys ...string) {
	t.Helper()
	for _, key := range append(keys, "ours_per_second", "naive_per_second", "ratio", "commits_per_transfer", "mean_batch", "fsync_us") {
		if v, ok := figures[key].(float64); !ok || v <= 0 {
			t.Errorf("%s = %v, want a number above 0", key, figures[key])
		}
	}
}

func form(t *testing.T, report map[string]any, name string) map[string]any {
	t.Helper()
	f, ok := report[name].(map[string]any)
	if !ok {
		t.Fatalf("the report has no object %q", name)
	}
	return f
}

func wantMoney(t *testing.T, report map[string]any) {
	t.Helper()
	money := form(t, report, "money")
	if report["ok"] != true || money["after"] != money["expected"] || money["wrong_accounts"] != 0.0 {
		t.Errorf("ok = %v, money = %v", report["ok"], money)
	}
	if name, ok := form(t, report, "machine")["sqlite"].(string); !ok || name == "" {
		t.Error("the report does not name the version of SQLite")
	}
}

func TestBenchTransfer(t *testing.T) {
	t.Parallel()
	for _, more := range [][]string{nil, {"--keyed"}} {
		t.Run(strings.Join(more, " "), func(t *testing.T) {
			t.Parallel()
			report := runBenchJSON(t, "transfer", append(more, "--transfers", "1000")...)
			wantMoney(t, report)
			wantFigures(t, report, "p50_ms", "p99_ms")
			if money := form(t, report, "money"); money["before"] != money["after"] {
				t.Errorf("transfers changed the sum: %v", money)
			}
			for _, name := range []string{formTransact, formOwn} {
				f := form(t, report, name)
				wantFigures(t, f, "p50_ms", "p99_ms", "effect_p50_ms", "broker_messages_per_transfer")
				if c := f["commits_per_transfer"].(float64); c > 1.2 {
					t.Errorf("%s: %v commits a transfer, want at most 1.2", name, c)
				}
				if c := f["naive_commits_per_transfer"].(float64); c < 2 || c > 2.1 {
					t.Errorf("%s: the bare side made %v commits a transfer, want 2", name, c)
				}
			}
		})
	}
}

func TestBenchPublish(t *testing.T) {
	t.Parallel()
	report := runBenchJSON(t, "publish", "--transfers", "500")
	wantMoney(t, report)
	own := form(t, report, formOwn)
	wantFigures(t, own, "p50_ms", "p99_ms")
	if c := own["commits_per_transfer"]; c != 1.0 {
		t.Errorf("own transaction: %v commits a transfer, want 1", c)
	}
	if c := form(t, report, formTransact)["commits_per_transfer"].(float64); c >= 1 {
		t.Errorf("Transact: %v commits a transfer, want less than 1", c)
	}
}

func TestBenchRelay(t *testing.T) {
	t.Parallel()
	report := runBenchJSON(t, "relay", "--transfers", "3000")
	wantMoney(t, report)
	wantFigures(t, form(t, report, formRelay))
}

func TestBenchLatency(t *testing.T) {
	t.Parallel()
	args := []string{"bench", "latency", "--json", "--dir", t.TempDir(), "--rate", "50", "--length", "1s"}
	var stdout, stderr bytes.Buffer
	if code := run(args, &stdout, &stderr); code != exitOK {
		t.Fatalf("exit code %d: %s", code, &stderr)
	}
	var r latencyReport
	if err := json.Unmarshal(stdout.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	if !r.OK || r.Transfers != 50 || r.P50 <= 0 || r.P99 < r.P50 || r.P999 < r.P99 || r.Max < r.P999 || r.CommitsPerTransfer < 1 || r.Money.After != r.Money.Before {
		t.Errorf("%+v", r)
	}
}

// Relay and server as processes of their own.
func TestBenchBacklogAndIdle(t *testing.T) {
	t.Parallel()
	decode := func(into any, args ...string) {
		t.Helper()
		p := begin(t, nil, executable(t, "twostep"), append([]string{"bench", "--json", "--dir", t.TempDir()}, args...)...)
		if code := p.exit(t, demoLimit); code != exitOK {
			t.Fatalf("bench %v: exit code %d", args, code)
		}
		if err := json.Unmarshal([]byte(p.stdout.String()), into); err != nil {
			t.Fatal(err)
		}
	}
	var b backlogReport
	decode(&b, "backlog", "--waiting", "1000,5000", "--rounds", "3")
	if b.Few.Waiting < 1000 || b.Many.Waiting < 5000 || b.Few.ClaimMS <= 0 || b.Many.ClaimMS <= 0 || b.Many.StartMS <= 0 || b.Ratio <= 0 || b.Many.MemoryMB > 64 {
		t.Errorf("%+v", b)
	}
	var idle idleReport
	decode(&idle, "idle", "--length", "2s")
	// A beat each 1.5 s, and nothing else: how many fall into two seconds is by chance.
	if idle.Seconds != 2 || idle.CommitsPerMinute <= 0 || idle.CommitsPerMinute > 200 {
		t.Errorf("%+v", idle)
	}
}

func TestBenchUsage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ args, want string }{
		{"bench transfer --clients 0", "--clients 0: use 1 or more"},
		{"bench transfer --form other", "--form \"other\": use transact or own_transaction"},
		{"bench transfers", "transfer"},
		{"bench latency --rate 0", "--rate 0: use a number of transfers a second"},
		{"bench backlog --waiting 10", "--waiting 10: use two numbers of rows"},
		{"bench backlog --waiting 10,x", "--waiting 10,x: use two numbers of rows"},
		{"bench idle --length 1ms", "--length 1ms: use 1s or more"},
		{"bench relay --db oracle", "use sqlite, postgres or mysql"},
		{"bench relay --db sqlite,mysql,postgres", "or two: bank A's and bank B's"},
		{"bench relay --db sqlite --dsn x", "--dsn is given 1 times, which is more than --db has servers"},
	} {
		var stdout, stderr bytes.Buffer
		if code := run(strings.Fields(c.args), &stdout, &stderr); code != exitUsage || !strings.Contains(stderr.String(), c.want) {
			t.Errorf("twostep %s: exit code %d, %q; want %d, %q", c.args, code, &stderr, exitUsage, c.want)
		}
	}
}

// TestBenchCountsTheMoney: one cent too much on one account is found, though the sum may be right.
func TestBenchCountsTheMoney(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	var banks []*benchBank
	for _, name := range []string{"a", "b"} {
		bank, err := openBenchBank(ctx, database.Config{Kind: database.SQLite, DSN: filepath.Join(t.TempDir(), name+".db")}, name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = bank.Close() })
		banks = append(banks, bank)
	}
	transfer := benchTransferOf(3)
	if err := banks[0].bare(ctx, banks[0].debit, transfer); err != nil {
		t.Fatal(err)
	}
	if err := banks[1].bare(ctx, banks[1].credit, transfer); err != nil {
		t.Fatal(err)
	}
	var books benchBooks
	books.a[transfer.From] -= transfer.Amount
	books.b[transfer.To] += transfer.Amount
	count := func() error {
		money, err := countMoney(ctx, banks[0], banks[1], &books)
		if err != nil {
			t.Fatal(err)
		}
		return money.verdict()
	}
	if err := count(); err != nil {
		t.Fatalf("the money adds up, but: %v", err)
	}
	if _, err := banks[1].ExecContext(ctx, `UPDATE account SET balance = balance + CASE id WHEN 1 THEN 1 ELSE -1 END WHERE id IN (1, 2)`); err != nil {
		t.Fatal(err)
	}
	if err := count(); err == nil || !strings.Contains(err.Error(), "b/1: 1000000001 instead of 1000000000") {
		t.Errorf("a cent moved to another account: %v", err)
	}
}

func TestPercentileAndMedian(t *testing.T) {
	t.Parallel()
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	var all []time.Duration
	for i := 100; i > 0; i-- {
		all = append(all, ms(i))
	}
	for _, c := range []struct{ p, want float64 }{{0.5, 50}, {0.99, 99}, {1, 100}, {0, 1}} {
		if got := percentile(all, c.p); got != c.want {
			t.Errorf("percentile %v of 1..100 ms = %v, want %v", c.p, got, c.want)
		}
	}
	if got := percentile(nil, 0.5); got != 0 {
		t.Errorf("percentile of none = %v", got)
	}
	if a, b := median([]float64{3, 1, 2}), median([]float64{4, 1, 2, 3}); a != 2 || b != 2.5 {
		t.Errorf("median = %v and %v, want 2 and 2.5", a, b)
	}
}
