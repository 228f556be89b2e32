package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/cmd/internal/database"
)

// examine runs `twostep doctor --json`.
func examine(t *testing.T, wantCode int, line ...string) doctorReport {
	t.Helper()
	out, errs, code := command(t, nil, append(append([]string{"doctor"}, line...), "--json")...)
	var r doctorReport
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v: %s%s", err, out, errs)
	}
	if code != wantCode || r.OK != (code == exitOK) || len(r.Findings) == 0 {
		t.Errorf("doctor %v: exit code %d, want %d: %s%s", line, code, wantCode, out, errs)
	}
	return r
}

// wantFinding wants one about something, by its check, with words in its value, problem or fix.
func wantFinding(t *testing.T, r doctorReport, about, check string, level broker.Level, words string) {
	t.Helper()
	for _, f := range r.Findings {
		if f.About == about && f.Check == check {
			if text := f.Value + " " + f.Problem + " " + f.Fix; f.Level != level || !strings.Contains(text, words) {
				t.Errorf("%s, %s: %+v, want level %s and %q", about, check, f, level, words)
			}
			return
		}
	}
	t.Errorf("no finding about %s, %s in %+v", about, check, r.Findings)
}

func TestDoctorBeforeTheFirstStart(t *testing.T) {
	t.Parallel()
	r := examine(t, exitOK, "--data", filepath.Join(t.TempDir(), "data"))
	wantFinding(t, r, aboutFolder, "folder", broker.LevelNote, "twostep serve makes it")
	wantFinding(t, r, aboutDatabase, "file", broker.LevelNote, "twostep serve makes it")
	wantFinding(t, r, aboutBroker, "connection", broker.LevelNote, "twostep serve starts it")
}

// Beside a server that runs, doctor looks at its folder, its database and its embedded broker.
func TestDoctorBesideAServer(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	s := startTestServer(t, cfg)
	listen := strings.TrimPrefix(s.BrokerURL(), "nats://")
	r := examine(t, exitOK, "--data", cfg.Data, "--broker-listen", listen)
	wantFinding(t, r, aboutFolder, "folder", broker.LevelOK, "")
	wantFinding(t, r, aboutDatabase, "integrity", broker.LevelOK, "quick_check")
	wantFinding(t, r, aboutDatabase, "schema", broker.LevelOK, "migrations")
	wantFinding(t, r, aboutBroker, "server", broker.LevelOK, "NATS server")
	wantFinding(t, r, aboutBroker, "message size", broker.LevelOK, "")

	if err := os.Chmod(cfg.Data, 0o755); err != nil {
		t.Fatal(err)
	}
	r = examine(t, exitOK, "--data", cfg.Data, "--broker-listen", listen)
	wantFinding(t, r, aboutFolder, "folder", broker.LevelWarning, "chmod 700 "+cfg.Data)
}

func TestDoctorConfiguration(t *testing.T) {
	t.Parallel()
	r := examine(t, exitFailure, "--log-level", "loud")
	wantFinding(t, r, aboutConfiguration, "configuration", broker.LevelError, "use debug, info, warn or error")
	r = examine(t, exitFailure, "--data", filepath.Join(t.TempDir(), "data"), "--broker-url", "nats://127.0.0.1:1")
	wantFinding(t, r, aboutBroker, "connection", broker.LevelError, "broker.url")
	out, _, code := command(t, nil, "doctor", "--log-level", "loud")
	if code != exitFailure || !strings.Contains(out, "ERROR  configuration") || !strings.Contains(out, "1 errors, 0 warnings, 0 notes") {
		t.Errorf("exit code %d: %s", code, out)
	}
	for line, want := range map[string]string{
		"doctor --db oracle":             "use sqlite, postgres or mysql",
		"doctor --db sqlite":             "--dsn is missing",
		"doctor --for me":                "use service or orchestrator",
		"doctor --db mysql --schema s":   "leave the schema out",
		"doctor --db sqlite --schema=s1": "leave them out",
	} {
		if _, errs, code := command(t, nil, strings.Fields(line)...); code != exitUsage || !strings.Contains(errs, want) {
			t.Errorf("twostep %s: exit code %d, %s", line, code, errs)
		}
	}
}

func TestDoctorOfAServicesDatabase(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "bank.db")
	r := examine(t, exitFailure, "--db", "sqlite", "--dsn", file)
	wantFinding(t, r, aboutDatabase, "connection", broker.LevelError, file)
	mustRun(t, nil, "migrate", "--dsn", file, "--for", "orchestrator")
	wantFinding(t, examine(t, exitFailure, "--db", "sqlite", "--dsn", file), aboutDatabase, "schema", broker.LevelError, "twostep migrate --driver sqlite")
	mustRun(t, nil, "migrate", "--dsn", file)
	examine(t, exitOK, "--db", "sqlite", "--dsn", file)
	examine(t, exitOK, "--db", "sqlite", "--dsn", file, "--for", "orchestrator")
}

// On the servers the adapters' own tests look at every finding; here that doctor shows them.
func TestDoctorOnServers(t *testing.T) {
	t.Parallel()
	for _, kind := range []database.Kind{database.Postgres, database.MySQL} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			dsn := serverDSN(t, kind)
			prefix := "doctor_" + filepath.Base(t.TempDir())[:3] + "_"
			r := examine(t, exitFailure, "--db", string(kind), "--dsn", dsn, "--table-prefix", prefix)
			wantFinding(t, r, aboutDatabase, "schema version", broker.LevelError, "twostep migrate --driver "+string(kind))
			wantFinding(t, r, aboutDatabase, "durability", broker.LevelOK, "")
		})
	}
}
