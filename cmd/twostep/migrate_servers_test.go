package main

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/twostep-mq/twostep/cmd/internal/database"
)

// TestMigrateOnServers: --status before and after, --print that does the same by hand, schema and table prefix, and JSON.
func TestMigrateOnServers(t *testing.T) {
	t.Parallel()
	for kind, names := range map[database.Kind][]string{
		database.Postgres: {"--schema", "messages", "--table-prefix", "our_"}, database.MySQL: {"--table-prefix", "our_"},
	} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			c := database.Config{Kind: kind, DSN: serverDSN(t, kind), Name: "twostep_test_" + uuid.NewString()[:8]}
			if err := database.Create(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := database.Drop(context.WithoutCancel(t.Context()), c); err != nil {
					t.Error(err)
				}
			})
			line := append([]string{"migrate", "--driver", string(kind), "--dsn", databaseInDSN.ReplaceAllString(c.DSN, "$1/"+c.Name)}, names...)
			for _, set := range []string{"service", "orchestrator"} {
				line := append(line, "--for", set)
				if out, errs, code := command(t, nil, append(line, "--status")...); code != exitFailure || !strings.Contains(out, "missing") || !strings.Contains(errs, "--table-prefix our_") {
					t.Errorf("%s, before: exit code %d: %s%s", set, code, out, errs)
				}
				if out := mustRun(t, nil, line...); !strings.Contains(out, c.Name+" has the tables of set "+set) {
					t.Errorf("%s: %s", set, out)
				}
				mustRun(t, nil, line...) // again changes nothing
				if out := mustRun(t, nil, append(line, "--status")...); strings.Contains(out, "missing") {
					t.Errorf("%s, after: %s", set, out)
				}
				var r migrationReport
				if err := json.Unmarshal([]byte(mustRun(t, nil, append(line, "--status", "--json")...)), &r); err != nil {
					t.Fatal(err)
				}
				if r.Driver != kind || string(r.Set) != set || r.Missing != 0 || len(r.Migrations) == 0 || r.Migrations[0].AppliedAtMS == 0 {
					t.Errorf("%s: %+v", set, r)
				}
				if sql := mustRun(t, nil, append(line, "--print")...); !strings.Contains(sql, "our_migration_"+set) {
					t.Errorf("%s: the printed SQL has other names: %s", set, tail(sql))
				}
			}
		})
	}
}
