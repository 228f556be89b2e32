package mysql_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	driver "github.com/go-sql-driver/mysql"

	"github.com/twostep-mq/twostep/adapters/mysql"
)

// lastDatabase numbers the databases of this process.
var lastDatabase atomic.Int64

func noError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// testServer is one of the two servers that the suite runs on. Its name stands in the names of tests.
type testServer string

const (
	mariaDB testServer = "mariadb"
	mySQL   testServer = "mysql"
)

// onEachServer runs a test on MariaDB and on MySQL, at once with others.
func onEachServer(t *testing.T, test func(*testing.T, testServer)) {
	t.Helper()
	t.Parallel()
	for _, on := range []testServer{mariaDB, mySQL} {
		t.Run(string(on), func(t *testing.T) {
			t.Parallel()
			test(t, on)
		})
	}
}

// onEachServerAlone does so one after the other, before the tests that run at once.
func onEachServerAlone(t *testing.T, test func(*testing.T, testServer)) {
	t.Helper()
	for _, on := range []testServer{mariaDB, mySQL} {
		t.Run(string(on), func(t *testing.T) { test(t, on) })
	}
}

// dsn is where the server is; without one the test is skipped.
func (on testServer) dsn(t testing.TB) *driver.Config {
	t.Helper()
	name := map[testServer]string{mariaDB: "TWOSTEP_TEST_MYSQL", mySQL: "TWOSTEP_TEST_MYSQL8"}[on]
	dsn := os.Getenv(name)
	if dsn == "" {
		t.Skipf(`no %s: set %s (scripts/services.sh start; eval "$(scripts/services.sh env)")`, on, name)
	}
	parsed, err := driver.ParseDSN(dsn)
	noError(t, err)
	return parsed
}

// newDatabase makes an empty database on the server, removed with the test, and returns its DSN.
func (on testServer) newDatabase(t testing.TB) string {
	t.Helper()
	dsn := on.dsn(t)
	mine := dsn.Clone()
	mine.DBName = fmt.Sprintf("twostep_test_%d_%d", os.Getpid(), lastDatabase.Add(1))
	admin := openDSN(t, dsn.FormatDSN())
	if isMariaDB := count(t, admin, "SELECT VERSION() LIKE '%MariaDB%'") == 1; isMariaDB != (on == mariaDB) {
		t.Fatalf("the server at %s is not %s: TWOSTEP_TEST_MYSQL is for MariaDB, TWOSTEP_TEST_MYSQL8 for MySQL", dsn.Addr, on)
	}
	execAll(t, admin, "CREATE DATABASE "+mine.DBName)
	t.Cleanup(func() {
		db, err := mysql.Open(dsn.FormatDSN())
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = db.Close() }()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := db.ExecContext(ctx, "DROP DATABASE IF EXISTS "+mine.DBName); err != nil {
			t.Error(err)
		}
	})
	return mine.FormatDSN()
}

func openDSN(t testing.TB, dsn string) *sql.DB {
	t.Helper()
	db, err := mysql.Open(dsn)
	noError(t, err)
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

func migrate(t testing.TB, db *sql.DB, cfg mysql.Config) {
	t.Helper()
	for _, set := range []mysql.Set{mysql.Service, mysql.Orchestrator} {
		noError(t, mysql.Migrate(t.Context(), db, set, cfg))
	}
}

// open makes a migrated database of the test's own.
func (on testServer) open(t testing.TB) (*sql.DB, string) {
	t.Helper()
	dsn := on.newDatabase(t)
	db := openDSN(t, dsn)
	migrate(t, db, mysql.Config{})
	return db, dsn
}

// with adds parameters to a DSN.
func with(dsn, parameters string) string {
	if strings.Contains(dsn, "?") {
		return dsn + "&" + parameters
	}
	return dsn + "?" + parameters
}
