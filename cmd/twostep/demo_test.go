package main

import (
	"bytes"
	"context"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/adapters/sqlite"
)

const demoLimit = 90 * time.Second

// demo runs `twostep demo` to its end.
func demo(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	p := begin(t, []string{"TMPDIR=" + t.TempDir()}, executable(t, "twostep"), append([]string{"demo"}, args...)...)
	code = p.exit(t, demoLimit)
	return code, p.stdout.String(), p.stderr.String()
}

// decodeReport wants exactly one JSON object.
func decodeReport(t *testing.T, stdout string) demoReport {
	t.Helper()
	var r demoReport
	d := json.NewDecoder(strings.NewReader(stdout))
	if err := d.Decode(&r); err != nil {
		t.Fatalf("stdout is no JSON object: %v\n%s", err, stdout)
	}
	if d.More() {
		t.Fatalf("stdout holds more than one object:\n%s", stdout)
	}
	return r
}

func TestDemoAddsUp(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	p := begin(t, []string{"TMPDIR=" + folder}, executable(t, "twostep"), "demo", "--transfers", "500", "--seed", "7", "--json") // the seed has all that is asked for below
	if code := p.exit(t, demoLimit); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	r := decodeReport(t, p.stdout.String())
	if !r.OK || r.Transfers != 500 || r.Committed+r.Refused+r.RolledBack != 500 || r.Credited+r.DeadLetters != r.Committed {
		t.Errorf("the numbers do not fit: %+v", r)
	}
	if r.MoneyBefore != r.MoneyAfter || r.MoneyBefore == 0 {
		t.Errorf("money before %d, after %d", r.MoneyBefore, r.MoneyAfter)
	}
	for what, n := range map[string]int64{
		"committed": int64(r.Committed), "refused": int64(r.Refused), "rolled back": int64(r.RolledBack), "dead letters": int64(r.DeadLetters),
		"duplicates": r.DuplicatesAbsorbed, "retries": r.Retries, "commits": r.Commits,
	} {
		if n == 0 {
			t.Errorf("no %s: the run did not have what it is to show", what)
		}
	}
	if r.RelayKills != 1 || r.Starts != 1 {
		t.Errorf("%d relay kills, %d starts, want 1 and 1", r.RelayKills, r.Starts)
	}
	if r.TransfersPerSecond <= 0 || r.CommitsPerTransfer <= 0 {
		t.Errorf("%v transfers a second, %v commits a transfer", r.TransfersPerSecond, r.CommitsPerTransfer)
	}
	left, err := os.ReadDir(folder)
	if err != nil || len(left) > 0 {
		t.Errorf("left in the temporary folder: %v, %v", left, err)
	}
	var keys map[string]any
	if err := json.Unmarshal([]byte(p.stdout.String()), &keys); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{
		"transfers", "committed", "refused", "rolled_back", "credited", "duplicates_absorbed", "retries", "dead_letters", "relay_kills",
		"money_before", "money_after", "transfers_per_second", "commits_per_transfer", "ok",
	} {
		if _, there := keys[key]; !there {
			t.Errorf("key %s is missing", key)
		}
	}
}

// TestDemoNoticesWhatIsWrong spoils the databases of a run that adds up; the demo must then fail and name the transfer.
func TestDemoNoticesWhatIsWrong(t *testing.T) {
	t.Parallel()
	sound := filepath.Join(t.TempDir(), "demo")
	if code, _, stderr := demo(t, "--transfers", "300", "--seed", "7", "--data", sound); code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	if code, stdout, stderr := demo(t, "--data", sound); code != 0 || !strings.Contains(stdout, "It adds up") {
		t.Fatalf("a second look ends with %d: %s", code, stderr)
	}
	first := `(SELECT transfer FROM entry ORDER BY id LIMIT 1)`
	for name, c := range map[string]struct {
		bank, sql string
		// query finds the transfer or account that the message has to name, in the sound run.
		query string
	}{
		"balance": {
			demoBankB, `UPDATE account SET balance = balance + 1 WHERE id = 'b-007'`,
			`SELECT 'account b-007 of the receiving bank'`,
		},
		"credit dropped": {
			demoBankB, `UPDATE account SET balance = balance - (SELECT amount FROM entry ORDER BY id LIMIT 1) WHERE id = (SELECT account FROM entry ORDER BY id LIMIT 1);
				DELETE FROM entry WHERE id = (SELECT min(id) FROM entry)`,
			`SELECT 'transfer ' || transfer || ' was committed, but neither credited' FROM entry WHERE transfer = ` + first,
		},
		"credit doubled": {
			demoBankB, `UPDATE account SET balance = balance + (SELECT amount FROM entry ORDER BY id LIMIT 1) WHERE id = (SELECT account FROM entry ORDER BY id LIMIT 1);
				INSERT INTO entry (transfer, account, amount) SELECT transfer, account, amount FROM entry ORDER BY id LIMIT 1`,
			`SELECT 'transfer ' || transfer || ' was credited 2 times' FROM entry WHERE transfer = ` + first,
		},
		"debit undone": {
			demoBankA, `UPDATE account SET balance = balance - (SELECT amount FROM entry ORDER BY id LIMIT 1) WHERE id = (SELECT account FROM entry ORDER BY id LIMIT 1);
				DELETE FROM entry WHERE id = (SELECT min(id) FROM entry)`,
			`SELECT 'transfer ' || transfer || ' was committed, but debited 0 times' FROM entry WHERE transfer = ` + first,
		},
		"dead letter lost": {
			demoBankB, `DELETE FROM twostep_parked WHERE seq = (SELECT min(seq) FROM twostep_parked)`,
			`SELECT 'transfer ' || gid || ' was committed, but neither credited' FROM twostep_parked ORDER BY seq LIMIT 1`,
		},
		"row left in the outbox": {
			demoBankA, `INSERT INTO twostep_outbox (topic, payload) VALUES ('bank.trans-in', x'00')`,
			`SELECT '1 messages are still in the outbox'`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			folder := filepath.Join(t.TempDir(), "demo")
			if err := os.CopyFS(folder, os.DirFS(sound)); err != nil {
				t.Fatal(err)
			}
			db, err := sqlite.Open(filepath.Join(folder, c.bank))
			if err != nil {
				t.Fatal(err)
			}
			var want string
			if err := db.QueryRow(c.query).Scan(&want); err != nil {
				t.Fatal(err)
			}
			if _, err := db.Exec(c.sql); err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			code, stdout, stderr := demo(t, "--data", folder, "--json")
			if code != exitFailure || !strings.Contains(stderr, want) || !strings.Contains(stderr, folder) {
				t.Errorf("exit code %d, stderr %q; want 1 and %q", code, stderr, want)
			}
			if r := decodeReport(t, stdout); r.OK || len(r.Problems) == 0 {
				t.Errorf("the report says %+v", r)
			}
		})
	}
}

func TestDemoRefusesAnotherRunsFolder(t *testing.T) {
	t.Parallel()
	foreign := t.TempDir()
	if err := os.WriteFile(filepath.Join(foreign, "letter.txt"), []byte("dear"), 0o600); err != nil {
		t.Fatal(err)
	}
	other := t.TempDir()
	plan := `{"seed":5,"transfers":10,"accounts":4,"tap":"00000000-0000-4000-8000-000000000001"}`
	if err := os.WriteFile(filepath.Join(other, demoPlanFile), []byte(plan), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"not empty":        {[]string{"--data", foreign}, "is not empty and holds no demo: choose another --data"},
		"other transfers":  {[]string{"--data", other, "--transfers", "20"}, "holds a run of 10 transfers, 4 accounts, seed 5"},
		"no transfers":     {[]string{"--transfers", "0"}, "--transfers 0: use 1 or more"},
		"too few accounts": {[]string{"--accounts", "1"}, "a bank needs 2 to 100000 accounts"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var stdout, stderr bytes.Buffer
			code := run(append([]string{"demo"}, c.args...), &stdout, &stderr)
			if code != exitUsage || !strings.Contains(stderr.String(), c.want) {
				t.Errorf("exit code %d, %q; want %d and %q", code, stderr.String(), exitUsage, c.want)
			}
		})
	}
}

// TestDemoContinuesAfterKill kills the demo with all its processes at moments spread over the run, starts it again on its folder,
// and wants the whole run to add up. Some moments kill the first process alone: the relay then has to die by itself.
func TestDemoContinuesAfterKill(t *testing.T) {
	t.Parallel()
	moments := 3
	if long() {
		moments = 20
	}
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("TWOSTEP_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = n
	}
	t.Logf("TWOSTEP_SEED=%d", seed)
	var unconfirmed atomic.Int64
	t.Run("moments", func(t *testing.T) {
		for i := range moments {
			random := rand.New(rand.NewPCG(seed, uint64(i)))
			// One moment in each part of 5–95 %.
			percent := 5 + 90*(float64(i)+random.Float64())/float64(moments)
			group := random.IntN(4) > 0
			t.Run(strconv.FormatFloat(percent, 'f', 1, 64), func(t *testing.T) {
				t.Parallel()
				if rows := killAndContinue(t, percent, group); rows > 0 {
					unconfirmed.Add(1)
				}
			})
		}
	})
	t.Logf("%d of %d moments had rows unconfirmed", unconfirmed.Load(), moments)
	if int(unconfirmed.Load())*4 < moments*3 {
		t.Errorf("only %d of %d moments had rows unconfirmed: want three of four", unconfirmed.Load(), moments)
	}
}

// killAndContinue returns how many rows were unconfirmed at the moment of the kill.
func killAndContinue(t *testing.T, percent float64, group bool) (rows int) {
	t.Helper()
	const transfers = 1000
	folder := filepath.Join(t.TempDir(), "demo")
	p := begin(t, nil, executable(t, "twostep"), "demo", "--transfers", strconv.Itoa(transfers), "--data", folder)
	wanted := int(percent * transfers / 100)
	asked := 0
	eventually(t, demoLimit, func() (bool, string) {
		raw, _ := os.ReadFile(filepath.Join(folder, demoLogFile))
		asked = bytes.Count(raw, []byte(`"event":"asked"`))
		return asked >= wanted || p.ended(), strconv.Itoa(asked) + " transfers asked for"
	})
	if !group {
		_ = syscall.Kill(p.Process.Pid, syscall.SIGKILL)
	}
	if p.ended() {
		t.Fatal("the demo ended before it could be killed")
	}
	if group {
		p.kill()
	}
	<-p.done
	bank := openBank(t, filepath.Join(folder, demoBankA))
	rows, err := bank.Unreleased(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if err := bank.Close(); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := demo(t, "--data", folder, "--json")
	t.Logf("killed (whole group: %v) at %d of %d transfers with %d rows unconfirmed", group, asked, transfers, rows)
	if code != 0 {
		t.Fatalf("exit code %d after the restart: %s", code, stderr)
	}
	r := decodeReport(t, stdout)
	if !r.OK || r.Transfers != transfers || r.Starts != 2 || r.RelayKills < 1 || r.Retries == 0 || r.Commits == 0 {
		t.Errorf("the whole run's report: %+v", r)
	}
	return rows
}
