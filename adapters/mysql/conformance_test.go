package mysql_test

import (
	"database/sql"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/adapters/mysql"
	"github.com/twostep-mq/twostep/outbox/outboxtest"
	"github.com/twostep-mq/twostep/topics"
	"github.com/twostep-mq/twostep/topics/topicstest"
)

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

func TestOutboxConformance(t *testing.T) { onEachServer(t, testOutboxConformance) }

func testOutboxConformance(t *testing.T, on testServer) {
	outboxtest.Run(t, outboxtest.Harness{
		Open: func(t *testing.T) outboxtest.Database {
			db, dsn := on.open(t)
			return outboxOf(t, db, dsn)
		},
		OutOfOrder: true, GapAge: gapAge, RawCommitStands: true,
	})
}

// TestOutboxConformancePrepared: a service's own pool may bind values by prepared statements, and count rows found instead of
// rows changed.
func TestOutboxConformancePrepared(t *testing.T) { onEachServer(t, testOutboxConformancePrepared) }

func testOutboxConformancePrepared(t *testing.T, on testServer) {
	outboxtest.Run(t, outboxtest.Harness{
		Open: func(t *testing.T) outboxtest.Database {
			_, dsn := on.open(t)
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
func TestConsumerConformance(t *testing.T) { onEachServer(t, testConsumerConformance) }

func testConsumerConformance(t *testing.T, on testServer) {
	topicstest.Run(t, topicstest.Harness{RawCommitStands: true, Open: func(t *testing.T) topicstest.Database {
		_, dsn := on.open(t)
		dsn = with(dsn, "multiStatements=true")
		return consumerOf(t, openDSN(t, dsn), dsn)
	}})
}

func TestConsumerConformancePrepared(t *testing.T) { onEachServer(t, testConsumerConformancePrepared) }

func testConsumerConformancePrepared(t *testing.T, on testServer) {
	topicstest.Run(t, topicstest.Harness{RawCommitStands: true, Open: func(t *testing.T) topicstest.Database {
		_, dsn := on.open(t)
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

func TestRegistryConformance(t *testing.T) { onEachServer(t, testRegistryConformance) }

func testRegistryConformance(t *testing.T, on testServer) {
	for name, parameters := range map[string]string{"interpolated": "", "prepared": "interpolateParams=false&clientFoundRows=true"} {
		t.Run(name, func(t *testing.T) {
			topicstest.RunRegistry(t, topicstest.RegistryHarness{Open: func(t *testing.T) (topics.RegistryStore, func(*testing.T) topics.RegistryStore) {
				_, dsn := on.open(t)
				if parameters != "" {
					dsn = with(dsn, parameters)
				}
				return registryOf(t, openDSN(t, dsn)), func(t *testing.T) topics.RegistryStore { return registryOf(t, openDSN(t, dsn)) }
			}})
		})
	}
}
