package main

import (
	"log/slog"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/twostep-mq/twostep/cmd/internal/database"
	"github.com/twostep-mq/twostep/configs"
)

// serverDSN is the shared server of a kind. Without one, tests with servers are not wanted.
func serverDSN(t *testing.T, kind database.Kind) string {
	t.Helper()
	variable := "TWOSTEP_TEST_" + strings.ToUpper(string(kind))
	dsn := os.Getenv(variable)
	if dsn == "" {
		t.Skip(variable + ` is not set: scripts/services.sh start && eval "$(scripts/services.sh env)"`)
	}
	return dsn
}

var (
	passwordInDSN = regexp.MustCompile(`:([^:@/]+)@`)
	databaseInDSN = regexp.MustCompile(`([0-9)])/twostep\b`)
	addressInDSN  = regexp.MustCompile(`127\.0\.0\.1:\d+`)
)

// sayServer is the line that each command has for a DSN on which it cannot work.
func sayServer(t *testing.T, kind database.Kind, dsn, next string) (all []said) {
	t.Helper()
	note := func(about, text string) {
		for _, secret := range []string{"hunter2", passwordInDSN.FindStringSubmatch(dsn)[1]} {
			if strings.Contains(text, secret) {
				t.Errorf("%s tells the password: %s", about, text)
			}
		}
		text = strings.TrimSuffix(addressInDSN.ReplaceAllString(text, "SERVER"), "\n")
		all = append(all, said{string(kind) + ", " + about, text, string(kind) + " SERVER", next})
	}
	for _, line := range [][]string{
		{"migrate", "--driver", string(kind), "--dsn", dsn},
		{"migrate", "--driver", string(kind), "--dsn", dsn, "--status"},
		{"demo", "--db", string(kind), "--dsn", dsn},
		{"bench", "transfer", "--db", string(kind), "--dsn", dsn},
	} {
		_, errs, code := command(t, nil, line...)
		if code != exitFailure {
			t.Errorf("twostep %s: exit code %d", line[0], code)
		}
		about := line[0]
		if line[len(line)-1] == "--status" {
			about += " --status"
		}
		note(about, errs)
	}
	out, _, code := command(t, nil, "doctor", "--db", string(kind), "--dsn", dsn, "--json")
	if code != exitFailure || !strings.Contains(out, `"level": "error"`) {
		t.Errorf("doctor: exit code %d: %s", code, out)
	}
	return all
}

// sayServe is what the server says whose store has this DSN.
func sayServe(t *testing.T, kind database.Kind, dsn, next string) said {
	t.Helper()
	cfg := testConfig(t)
	cfg.Store.Driver, cfg.Store.DSN = string(kind), configs.Secret(dsn)
	_, err := startServer(t.Context(), cfg, slog.New(slog.DiscardHandler))
	return said{string(kind) + ", serve", addressInDSN.ReplaceAllString(messageText(t, err), "SERVER"), string(kind) + " SERVER", next}
}

func sayWrongPassword(t *testing.T) (all []said) {
	for _, kind := range []database.Kind{database.Postgres, database.MySQL} {
		dsn := passwordInDSN.ReplaceAllString(serverDSN(t, kind), ":hunter2@")
		all = append(all, sayServer(t, kind, dsn, "correct user and password in the DSN")...)
		all = append(all, sayServe(t, kind, dsn, "correct user and password in the DSN"))
	}
	return all
}

func sayUnknownDatabase(t *testing.T) (all []said) {
	for _, kind := range []database.Kind{database.Postgres, database.MySQL} {
		dsn := databaseInDSN.ReplaceAllString(serverDSN(t, kind), "$1/nowhere")
		all = append(all, sayServer(t, kind, dsn, "CREATE DATABASE nowhere")...)
		all = append(all, sayServe(t, kind, dsn, "CREATE DATABASE nowhere"))
	}
	return all
}

// The server waits for its store; TestStoreOnServers has the line it logs.
func sayUnreachable(t *testing.T) []said {
	return append(
		sayServer(t, database.Postgres, "postgres://u:hunter2@127.0.0.1:1/twostep", "start it, or correct the DSN"),
		sayServer(t, database.MySQL, "u:hunter2@tcp(127.0.0.1:1)/twostep", "start it, or correct the DSN")...)
}

func sayMissingMigrations(t *testing.T) (all []said) {
	for _, kind := range []database.Kind{database.Postgres, database.MySQL} {
		c := database.Config{Kind: kind, DSN: serverDSN(t, kind), Name: "twostep_test_" + uuid.NewString()[:8]}
		if err := database.Create(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		db, err := database.Open(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		_, sending := db.Outbox(t.Context())
		_, receiving := db.Consumer(t.Context())
		_, serving := db.Registry(t.Context())
		for about, err := range map[string]error{"outbox": sending, "consumer": receiving, "registry": serving} {
			if text := messageText(t, err); !strings.Contains(text, "twostep migrate") || strings.Contains(text, "\n") {
				t.Errorf("%s, %s: %s", kind, about, text)
			}
		}
		dsn := databaseInDSN.ReplaceAllString(c.DSN, "$1/"+c.Name)
		_, errs, code := command(t, nil, "migrate", "--driver", string(kind), "--dsn", dsn, "--status", "--table-prefix", "other_")
		if code != exitFailure {
			t.Errorf("exit code %d", code)
		}
		text := strings.ReplaceAll(addressInDSN.ReplaceAllString(strings.TrimSuffix(errs, "\n"), "SERVER"), c.Name, "NAME")
		all = append(all, said{string(kind) + ", migrate --status", text, string(kind) + " SERVER/NAME lacks", "twostep migrate --driver " + string(kind)})
		if err := db.Close(); err != nil {
			t.Error(err)
		}
		if err := database.Drop(t.Context(), c); err != nil {
			t.Error(err)
		}
	}
	return all
}

// What is malformed is not repeated: it may hold a password.
func sayNoDSN(t *testing.T) (all []said) {
	for _, c := range []struct{ about, driver, dsn, next string }{
		{"postgres, malformed", "postgres", "postgres://u:hunter2@127.0.0.1:port/d", "use postgres://user:password@host:port/database"},
		{"postgres, another form", "postgres", "u:hunter2@tcp(127.0.0.1:1)/d", "use postgres://user:password@host:port/database"},
		{"mysql, malformed", "mysql", "u:hunter2@127.0.0.1:1/d", "use user:password@tcp(host:port)/database"},
		{"mysql, another form", "mysql", "mysql://u:hunter2@127.0.0.1/d", "use user:password@tcp(host:port)/database"},
		{"mysql, no database", "mysql", "u:hunter2@tcp(127.0.0.1:1)/", "user:password@tcp(host:port)/database"},
	} {
		_, errs, code := command(t, nil, "migrate", "--driver", c.driver, "--dsn", c.dsn)
		if code != exitFailure || strings.Contains(errs, "hunter2") {
			t.Errorf("%s: exit code %d, %s", c.about, code, errs)
		}
		all = append(all, said{c.about, strings.TrimSuffix(errs, "\n"), "DSN", c.next})
	}
	return all
}
