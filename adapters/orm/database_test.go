package orm_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	mysqldriver "github.com/go-sql-driver/mysql"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver pgx

	"github.com/twostep-mq/twostep/adapters/mysql"
	"github.com/twostep-mq/twostep/adapters/postgres"
	"github.com/twostep-mq/twostep/adapters/sqlite"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

// database is a service's database, which holds everything here: the accounts, the outbox, the barrier, and the registry that else
// the server keeps.
type database struct {
	kind   string // sqlite, postgres, mariadb, mysql
	db     *sql.DB
	outbox interface {
		outbox.Store
		outbox.RelayStore
	}
	consumer topics.Store
	registry topics.RegistryStore
}

// onEveryDatabase runs test on a new database of each kind that there is a server of.
func onEveryDatabase(t *testing.T, test func(t *testing.T, d database)) {
	for _, kind := range []struct {
		name, server string // the variable that says where the server is
		open         func(t *testing.T, server string) database
	}{
		{"sqlite", "", openSQLite},
		{"postgres", "TWOSTEP_TEST_POSTGRES", openPostgres},
		{"mariadb", "TWOSTEP_TEST_MYSQL", openMySQL},
		{"mysql", "TWOSTEP_TEST_MYSQL8", openMySQL},
	} {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			server := os.Getenv(kind.server)
			if server == "" && kind.server != "" {
				t.Skipf(`%s is not set: scripts/services.sh start && eval "$(scripts/services.sh env)"`, kind.server)
			}
			d := kind.open(t, server)
			d.kind = kind.name
			// What an ORM makes of a name is the same everywhere. The amounts are whole cents.
			d.exec(t, "CREATE TABLE account (name VARCHAR(40) NOT NULL PRIMARY KEY, balance BIGINT NOT NULL)")
			test(t, d)
		})
	}
}

func openSQLite(t *testing.T, _ string) database {
	t.Helper()
	db, err := sqlite.Open(filepath.Join(t.TempDir(), "bank.db"))
	noError(t, err)
	closeAfter(t, db)
	d := database{db: db}
	noError(t, sqlite.Migrate(t.Context(), db, sqlite.Service))
	noError(t, sqlite.Migrate(t.Context(), db, sqlite.Orchestrator))
	d.outbox, err = sqlite.NewOutbox(t.Context(), db)
	noError(t, err)
	d.consumer, err = sqlite.NewConsumer(t.Context(), db)
	noError(t, err)
	d.registry, err = sqlite.NewRegistry(t.Context(), db)
	noError(t, err)
	return d
}

func openPostgres(t *testing.T, server string) database {
	t.Helper()
	schema := newName()
	onServer(t, "pgx", server, "CREATE SCHEMA "+schema, "DROP SCHEMA "+schema+" CASCADE")
	separator := "?"
	if strings.Contains(server, "?") {
		separator = "&"
	}
	db, err := sql.Open("pgx", server+separator+"search_path="+schema)
	noError(t, err)
	db.SetMaxOpenConns(16) // the tests run side by side, and the server takes 200
	closeAfter(t, db)
	d := database{db: db}
	noError(t, postgres.Migrate(t.Context(), db, postgres.Service, postgres.Config{}))
	noError(t, postgres.Migrate(t.Context(), db, postgres.Orchestrator, postgres.Config{}))
	d.outbox, err = postgres.NewOutbox(t.Context(), db, postgres.Config{})
	noError(t, err)
	d.consumer, err = postgres.NewConsumer(t.Context(), db, postgres.Config{})
	noError(t, err)
	d.registry, err = postgres.NewRegistry(t.Context(), db, postgres.Config{})
	noError(t, err)
	return d
}

func openMySQL(t *testing.T, server string) database {
	t.Helper()
	dsn, err := mysqldriver.ParseDSN(server)
	noError(t, err)
	dsn.DBName = newName()
	onServer(t, "mysql", server, "CREATE DATABASE "+dsn.DBName, "DROP DATABASE "+dsn.DBName)
	db, err := mysql.Open(dsn.FormatDSN())
	noError(t, err)
	closeAfter(t, db)
	d := database{db: db}
	noError(t, mysql.Migrate(t.Context(), db, mysql.Service, mysql.Config{}))
	noError(t, mysql.Migrate(t.Context(), db, mysql.Orchestrator, mysql.Config{}))
	d.outbox, err = mysql.NewOutbox(t.Context(), db, mysql.Config{})
	noError(t, err)
	d.consumer, err = mysql.NewConsumer(t.Context(), db, mysql.Config{})
	noError(t, err)
	d.registry, err = mysql.NewRegistry(t.Context(), db, mysql.Config{})
	noError(t, err)
	return d
}

// lastName numbers the names that this process has made.
var lastName atomic.Int64

func newName() string { return fmt.Sprintf("twostep_orm_%d_%d", os.Getpid(), lastName.Add(1)) }

// onServer runs a statement now, and another one after the test.
func onServer(t *testing.T, driver, dsn, now, after string) {
	t.Helper()
	db, err := sql.Open(driver, dsn)
	noError(t, err)
	closeAfter(t, db)
	_, err = db.ExecContext(t.Context(), now)
	noError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := db.ExecContext(ctx, after); err != nil {
			t.Error(err)
		}
	})
}

func closeAfter(t *testing.T, db *sql.DB) {
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
}

func (d database) exec(t *testing.T, statements ...string) {
	t.Helper()
	for _, s := range statements {
		_, err := d.db.ExecContext(t.Context(), s)
		noError(t, err)
	}
}

func (d database) count(t *testing.T, query string) (n int) {
	t.Helper()
	noError(t, d.db.QueryRowContext(t.Context(), query).Scan(&n))
	return n
}

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
