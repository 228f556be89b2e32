package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twostep-mq/twostep/cmd/internal/database"
)

// Which server each bank gets: --dsn in the order of --db, else the variables, else what make services noted.
func TestBankFlags(t *testing.T) {
	services := t.TempDir()
	for kind, dsn := range map[string]string{"postgres": "pg-services", "mysql": "my-services"} {
		if err := os.WriteFile(filepath.Join(services, kind+".dsn"), []byte(dsn+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		db       string
		dsns     []string
		env      map[string]string
		services string
		want     string // DSN of bank A, DSN of bank B; or part of the error
	}{
		"files":                     {"", nil, nil, services, ","},
		"one of --dsn":              {"postgres", []string{"x"}, nil, services, "x,x"},
		"two of --dsn":              {"postgres", []string{"x", "y"}, nil, services, "x,y"},
		"two kinds":                 {"postgres,mysql", []string{"x", "y"}, nil, services, "x,y"},
		"a file and a server":       {"sqlite,mysql", []string{"y"}, nil, services, ",y"},
		"a server and a file":       {"mysql,sqlite", []string{"x"}, nil, services, "x,"},
		"too many of --dsn":         {"mysql,sqlite", []string{"x", "y"}, nil, services, "more than --db has servers"},
		"variable":                  {"mysql", nil, map[string]string{envDSN: "x"}, services, "x,x"},
		"variable for a later bank": {"sqlite,mysql", nil, map[string]string{envDSN: "x"}, services, ",x"},
		"two variables":             {"postgres,mysql", nil, map[string]string{envDSN: "x", envDSNB: "y"}, services, "x,y"},
		"--dsn before a variable":   {"postgres", []string{"z"}, map[string]string{envDSN: "x", envDSNB: "y"}, services, "z,z"},
		"services":                  {"postgres,mysql", nil, nil, services, "pg-services,my-services"},
		"a variable of another":     {"postgres,mysql", nil, map[string]string{envDSN: "x"}, services, "x,my-services"},
		"no server":                 {"mysql", nil, nil, t.TempDir(), "start one with make services, or name yours with TWOSTEP_DSN"},
		"unknown kind":              {"oracle", nil, nil, services, "use sqlite, postgres or mysql"},
		"three kinds":               {"mysql,mysql,mysql", nil, nil, services, "or two: bank A's and bank B's"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(envDSN, c.env[envDSN])
			t.Setenv(envDSNB, c.env[envDSNB])
			t.Setenv(envServices, c.services)
			f := bankFlags{kinds: c.db, dsns: c.dsns}
			kinds, err := f.parse([2]database.Kind{database.SQLite, database.SQLite})
			var got [2]database.Config
			if err == nil {
				got, err = f.servers(kinds)
			}
			switch {
			case err != nil && (!strings.Contains(err.Error(), c.want) || exitCode(err) != exitUsage):
				t.Errorf("%v, want %s", err, c.want)
			case err == nil && got[0].DSN+","+got[1].DSN != c.want:
				t.Errorf("%s,%s, want %s", got[0].DSN, got[1].DSN, c.want)
			}
		})
	}
}
