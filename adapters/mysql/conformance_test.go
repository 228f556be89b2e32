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
	"github.com/twostep-mq/twostep/outbox/outboxtest"
	"github.com/twostep-mq/twostep/topics"
	"github.com/twostep-mq/twostep/topics/topicstest"
)

// lastDatabase numbers the databases of this process.
var lastDatabase atomic.Int64

func noError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// serverDSN is where the tests' server is; without one they are skipped.
func serverDSN(t testing.TB) *driver.Config {
	t.Helper()
	dsn := os.Getenv("TWOSTEP_TEST_MYSQL")
	if dsn == "" {
		t.Skip(`no MySQL or MariaDB: set TWOSTEP_TEST_MYSQL (scripts/services.sh start; eval "$(scripts/services.sh env)")`)
	}
	parsed, err := driver.ParseDSN(dsn)
	noError(t, err)
	return parsed
}

// newDatabase makes an empty database on the server of dsn, removed with the test, and returns its DSN.
func newDatabase(t testing.TB, dsn *driver.Config) string {
	t.Helper()
	mine := dsn.Clone()
	mine.DBName = fmt.Sprintf("twostep_test_%d_%d", os.Getpid(), lastDatabase.Add(1))
	admin := openDSN(t, dsn.FormatDSN())
	_, err := admin.ExecContext(t.Context(), "CREATE DATABASE "+mine.DBName)
	noError(t, err)
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
func open(t testing.TB) (*sql.DB, string) {
	t.Helper()
	dsn := newDatabase(t, serverDSN(t))
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

func outboxOf(t testing.TB, db *sql.DB, dsn string) outboxtest.Database {
	t.Helper()
	o, err := mysql.NewOutbox(t.Context(), db, mysql.Config{})
	noError(t, err)
	return outboxtest.Database{
		DB: db, Store: o, Relay: o,
		Another: func(t *testing.T) outboxtest.Database { return outboxOf(t, openDSN(t, dsn), dsn) },
	}
}

// gapAge is how old a gap must be to be closed.
const gapAge = 10 * time.Second

func TestOutboxConformance(t *testing.T) {
	t.Parallel()
	outboxtest.Run(t, outboxtest.Harness{
		Open: func(t *testing.T) outboxtest.Database {
			db, dsn := open(t)
			return outboxOf(t, db, dsn)
		},
		OutOfOrder: true, GapAge: gapAge, RawCommitStands: true,
	})
}

// TestOutboxConformancePrepared: a service's own pool may bind values by prepared statements, and count rows found instead of
// rows changed.
func TestOutboxConformancePrepared(t *testing.T) {
	t.Parallel()
	outboxtest.Run(t, outboxtest.Harness{
		Open: func(t *testing.T) outboxtest.Database {
			_, dsn := open(t)
			dsn = with(dsn, "interpolateParams=false&clientFoundRows=true&parseTime=true")
			return outboxOf(t, openDSN(t, dsn), dsn)
		},
		OutOfOrder: true, GapAge: gapAge, RawCommitStands: true,
	})
}

func consumerOf(t testing.TB, db *sql.DB, dsn string) topicstest.Database {
	t.Helper()
	c, err := mysql.NewConsumer(t.Context(), db, mysql.Config{})
	noError(t, err)
	return topicstest.Database{
		DB: db, Store: c,
		Another: func(t *testing.T) topicstest.Database { return consumerOf(t, openDSN(t, dsn), dsn) },
	}
}

// TestConsumerConformance lets handlers run several statements at once: one of the suite's ends the transaction that way.
func TestConsumerConformance(t *testing.T) {
	t.Parallel()
	topicstest.Run(t, topicstest.Harness{RawCommitStands: true, Open: func(t *testing.T) topicstest.Database {
		_, dsn := open(t)
		dsn = with(dsn, "multiStatements=true")
		return consumerOf(t, openDSN(t, dsn), dsn)
	}})
}

func TestConsumerConformancePrepared(t *testing.T) {
	t.Parallel()
	topicstest.Run(t, topicstest.Harness{RawCommitStands: true, Open: func(t *testing.T) topicstest.Database {
		_, dsn := open(t)
		dsn = with(dsn, "multiStatements=true&interpolateParams=false&clientFoundRows=true&parseTime=true")
		return consumerOf(t, openDSN(t, dsn), dsn)
	}})
}

func registryOf(t testing.TB, db *sql.DB) topics.RegistryStore {
	t.Helper()
	r, err := mysql.NewRegistry(t.Context(), db, mysql.Config{})
	noError(t, err)
	return r
}

func TestRegistryConformance(t *testing.T) {
	t.Parallel()
	for name, parameters := range map[string]string{"interpolated": "", "prepared": "interpolateParams=false&clientFoundRows=true"} {
		t.Run(name, func(t *testing.T) {
			topicstest.RunRegistry(t, topicstest.RegistryHarness{Open: func(t *testing.T) (topics.RegistryStore, func(*testing.T) topics.RegistryStore) {
				_, dsn := open(t)
				if parameters != "" {
					dsn = with(dsn, parameters)
				}
				return registryOf(t, openDSN(t, dsn)), func(t *testing.T) topics.RegistryStore { return registryOf(t, openDSN(t, dsn)) }
			}})
		})
	}
}
