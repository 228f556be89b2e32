package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"github.com/twostep-mq/twostep/cmd/internal/database"
)

// Variables with DSNs: passwords do not belong on a command line, which other users of the machine can read.
const (
	envDSN = "TWOSTEP_DSN"
	// envDSNB is of the second bank, where that is on another server.
	envDSNB = "TWOSTEP_DSN_B"
	// envServices is the folder of scripts/services.sh, whose servers are used where no DSN is given.
	envServices     = "TWOSTEP_SERVICES"
	defaultServices = ".services"
)

// bankFlags say on which databases two banks are: --db and --dsn of demo and bench.
type bankFlags struct {
	kinds string
	dsns  []string
}

func (f *bankFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.kinds, "db", "", "kind of database: sqlite, postgres, mysql (MariaDB, too), or two of them, as postgres,mysql: bank A's and bank B's (default sqlite)")
	flags.StringArrayVar(&f.dsns, "dsn", nil, "database server of --db; twice where the banks are on two. Better in TWOSTEP_DSN and TWOSTEP_DSN_B: others can see the command line. Default: what make services started")
}

// parse reads --db; without it, fallback holds.
func (f *bankFlags) parse(fallback [2]database.Kind) (kinds [2]database.Kind, err error) {
	if f.kinds == "" {
		return fallback, nil
	}
	names := strings.Split(f.kinds, ",")
	if len(names) > len(kinds) {
		return kinds, usagef("--db %s: use one kind of database, or two: bank A's and bank B's", f.kinds)
	}
	for i, name := range names {
		kind, err := database.ParseKind(strings.TrimSpace(name))
		if err != nil {
			return kinds, usagef("--db: %v", err)
		}
		kinds[i] = kind
	}
	if len(names) == 1 {
		kinds[1] = kinds[0]
	}
	return kinds, nil
}

// servers finds the DSN of each bank's server: --dsn, else the variables, else what make services started. A bank on SQLite has none.
func (f *bankFlags) servers(kinds [2]database.Kind) (configs [2]database.Config, err error) {
	given := f.dsns
	for i, kind := range kinds {
		configs[i].Kind = kind
		if kind == database.SQLite {
			continue
		}
		switch {
		case len(given) > 0:
			configs[i].DSN = given[0]
			given = given[1:]
		case i == 1 && kinds[0] == kind && len(f.dsns) > 0:
			configs[i].DSN = configs[0].DSN
		default:
			if configs[i].DSN, err = defaultDSN(kind, i == 1, kinds[0]); err != nil {
				return configs, err
			}
		}
	}
	if len(given) > 0 {
		return configs, usagef("--dsn is given %d times, which is more than --db has servers", len(f.dsns))
	}
	return configs, nil
}

// defaultDSN is the DSN where none is on the command line; second: it is bank B's, and bank A is of kind first.
func defaultDSN(kind database.Kind, second bool, first database.Kind) (string, error) {
	if second {
		if dsn := os.Getenv(envDSNB); dsn != "" {
			return dsn, nil
		}
	}
	if dsn := os.Getenv(envDSN); dsn != "" && (!second || first == kind || first == database.SQLite) {
		return dsn, nil
	}
	dsn, err := servicesDSN(kind)
	if errors.Is(err, fs.ErrNotExist) {
		return "", usagef("--db %s needs a server: start one with make services, or name yours with %s (or --dsn)", kind, envDSN)
	}
	return dsn, err
}

// servicesDSN reads where scripts/services.sh has started a server.
func servicesDSN(kind database.Kind) (string, error) {
	folder := os.Getenv(envServices)
	if folder == "" {
		folder = defaultServices
	}
	raw, err := os.ReadFile(filepath.Join(folder, string(kind)+".dsn")) //nolint:gosec // G703: the folder is the user's own to name
	if err != nil {
		return "", fmt.Errorf("find the server that make services starts: %w", err)
	}
	return strings.TrimSpace(string(raw)), nil
}
