package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/twostep-mq/twostep/cmd/internal/database"
)

// TestBenchOnServers: the suites run on servers, on one and on two kinds, and their commits are counted by the servers themselves: at
// most 1.2 a transfer, and 2 on the bare side. The servers are the test's own, so that nobody else commits there.
func TestBenchOnServers(t *testing.T) {
	t.Parallel()
	servers := map[database.Kind]*ownServer{}
	for _, kind := range []database.Kind{database.Postgres, database.MySQL} {
		servers[kind] = startOwnServer(t, kind)
	}
	on := func(kinds [2]database.Kind) []string {
		args := []string{"--db", kindsFlag(kinds), "--dsn", servers[kinds[0]].dsn}
		if kinds[1] != kinds[0] {
			args = append(args, "--dsn", servers[kinds[1]].dsn)
		}
		return args
	}
	// One after the other: they share the servers' counters.
	for _, kinds := range serverKinds() {
		report := runBenchJSON(t, "transfer", append(on(kinds), "--transfers", "400")...)
		wantMoney(t, report)
		for _, name := range []string{formTransact, formOwn} {
			f := form(t, report, name)
			wantFigures(t, f, "p50_ms", "effect_p50_ms", "broker_messages_per_transfer")
			// Leases, receipts and deletes are written by time, too: on a slow machine more of them fall to a transfer.
			limit := 1.2 + 25/f["ours_per_second"].(float64)
			if c := f["commits_per_transfer"].(float64); c > limit {
				t.Errorf("%s, %s: %v commits a transfer, want at most %.2f", kindsFlag(kinds), name, c, limit)
			}
			// InnoDB adds its counter up now and then: one or two of the last commits may be missing.
			if c := f["naive_commits_per_transfer"].(float64); c < 1.98 || c > 2.1 {
				t.Errorf("%s, %s: the bare side made %v commits a transfer, want 2", kindsFlag(kinds), name, c)
			}
		}
		for i, version := range form(t, report, "machine")["databases"].([]any) {
			if want := map[database.Kind]string{database.Postgres: "PostgreSQL ", database.MySQL: "MariaDB "}[kinds[i]]; !strings.HasPrefix(version.(string), want) {
				t.Errorf("database %d is %v, want %s", i, version, want)
			}
		}
	}
	for kind, s := range servers {
		kinds := [2]database.Kind{kind, kind}
		wantMoney(t, runBenchJSON(t, "publish", append(on(kinds), "--transfers", "200", "--form", formOwn)...))
		wantMoney(t, runBenchJSON(t, "relay", append(on(kinds), "--transfers", "1000")...))
		backlog := begin(t, []string{"TMPDIR=" + t.TempDir()}, executable(t, "twostep"), append([]string{"bench", "backlog", "--json", "--waiting", "1000,4000", "--rounds", "3"}, on(kinds)...)...)
		if code := backlog.exit(t, demoLimit); code != 0 {
			t.Fatalf("bench backlog on %s: exit code %d", kind, code)
		}
		var r backlogReport
		if err := json.Unmarshal([]byte(backlog.stdout.String()), &r); err != nil {
			t.Fatal(err)
		}
		if r.Ratio <= 0 || r.Few.Waiting < 1000 || r.Many.Waiting < 4000 || r.Many.ClaimMS <= 0 || r.Many.StartMS <= 0 || r.Many.MemoryMB > 64 {
			t.Errorf("%s: %+v", kind, r)
		}
		if left := databases(t, kind, s.dsn, "twostep_bench_"); len(left) > 0 {
			t.Errorf("left on %s: %v", kind, left)
		}
	}
}
