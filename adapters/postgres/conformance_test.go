package postgres_test

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/twostep-mq/twostep/adapters/postgres"
	"github.com/twostep-mq/twostep/outbox/outboxtest"
	"github.com/twostep-mq/twostep/topics"
	"github.com/twostep-mq/twostep/topics/topicstest"
)

// config is the test server's, with a schema of the test's own as its search path.
func config(t testing.TB, schema string) *pgx.ConnConfig {
	t.Helper()
	dsn := os.Getenv("TWOSTEP_TEST_POSTGRES")
	if dsn == "" {
		t.Skip(`TWOSTEP_TEST_POSTGRES is not set: scripts/services.sh start && eval "$(scripts/services.sh env)"`)
	}
	cfg, err := pgx.ParseConfig(dsn)
	noError(t, err)
	if schema != "" {
		cfg.RuntimeParams["search_path"] = schema
	}
	return cfg
}

func noError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func pool(t testing.TB, cfg *pgx.ConnConfig) *sql.DB {
	t.Helper()
	db := stdlib.OpenDB(*cfg)
	db.SetMaxOpenConns(16) // the suites run side by side, and the server takes 200
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// newSchema makes an empty schema, which goes with the test.
func newSchema(t testing.TB) string {
	t.Helper()
	db := pool(t, config(t, ""))
	name := fmt.Sprintf("test_%d_%08x", os.Getpid(), rand.Uint32())
	_, err := db.ExecContext(t.Context(), `CREATE SCHEMA `+name)
	noError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if _, err := db.ExecContext(ctx, `SET client_min_messages = warning; DROP SCHEMA `+name+` CASCADE`); err != nil {
			t.Error(err)
		}
	})
	return name
}

// mode is a way to talk to the server.
type mode = pgx.QueryExecMode

const (
	extended = pgx.QueryExecModeCacheStatement
	simple   = pgx.QueryExecModeSimpleProtocol
)

// open makes a migrated schema.
func open(t testing.TB, m mode) (*sql.DB, *pgx.ConnConfig) {
	t.Helper()
	cfg := config(t, newSchema(t))
	cfg.DefaultQueryExecMode = m
	db := pool(t, cfg)
	for _, set := range []postgres.Set{postgres.Service, postgres.Orchestrator} {
		noError(t, postgres.Migrate(t.Context(), db, set, postgres.Config{}))
	}
	return db, cfg
}

func outboxOf(t *testing.T, db *sql.DB, cfg *pgx.ConnConfig) outboxtest.Database {
	t.Helper()
	o, err := postgres.NewOutbox(t.Context(), db, postgres.Config{})
	noError(t, err)
	return outboxtest.Database{
		DB: db, Store: o, Relay: o,
		Another: func(t *testing.T) outboxtest.Database { return outboxOf(t, pool(t, cfg), cfg) },
		Restore: func(t *testing.T) { restore(t, db) },
	}
}

// restore puts the outbox's rows back from a copy, as somebody who restores a table does.
func restore(t *testing.T, db *sql.DB) {
	t.Helper()
	_, err := db.ExecContext(t.Context(), `BEGIN; CREATE TEMP TABLE backup ON COMMIT DROP AS TABLE twostep_outbox;
TRUNCATE twostep_outbox; INSERT INTO twostep_outbox TABLE backup; COMMIT`)
	noError(t, err)
}

func outboxHarness(m mode) outboxtest.Harness {
	return outboxtest.Harness{
		Open: func(t *testing.T) outboxtest.Database {
			db, cfg := open(t, m)
			return outboxOf(t, db, cfg)
		},
		OutOfOrder: true, GapAge: 10 * time.Second, RawCommitStands: true,
	}
}

func consumerOf(t *testing.T, db *sql.DB, cfg *pgx.ConnConfig) topicstest.Database {
	t.Helper()
	c, err := postgres.NewConsumer(t.Context(), db, postgres.Config{})
	noError(t, err)
	return topicstest.Database{
		DB: db, Store: c,
		Another: func(t *testing.T) topicstest.Database { return consumerOf(t, pool(t, cfg), cfg) },
	}
}

func consumerHarness(m mode) topicstest.Harness {
	return topicstest.Harness{
		Open: func(t *testing.T) topicstest.Database {
			db, cfg := open(t, m)
			return consumerOf(t, db, cfg)
		},
		RawCommitStands: true,
	}
}

func TestOutboxConformance(t *testing.T) {
	outboxtest.Run(t, outboxHarness(extended))
}

func TestConsumerConformance(t *testing.T) {
	topicstest.Run(t, consumerHarness(extended))
}

// The simple protocol is what works behind every pooler.
func TestOutboxConformanceSimpleProtocol(t *testing.T) {
	outboxtest.Run(t, outboxHarness(simple))
}

func TestConsumerConformanceSimpleProtocol(t *testing.T) {
	topicstest.Run(t, consumerHarness(simple))
}

func registryOf(t *testing.T, db *sql.DB) topics.RegistryStore {
	t.Helper()
	r, err := postgres.NewRegistry(t.Context(), db, postgres.Config{})
	noError(t, err)
	return r
}

func TestRegistryConformance(t *testing.T) {
	for name, m := range map[string]mode{"extended": extended, "simple": simple} {
		t.Run(name, func(t *testing.T) {
			topicstest.RunRegistry(t, topicstest.RegistryHarness{Open: func(t *testing.T) (topics.RegistryStore, func(*testing.T) topics.RegistryStore) {
				db, cfg := open(t, m)
				return registryOf(t, db), func(t *testing.T) topics.RegistryStore { return registryOf(t, pool(t, cfg)) }
			}})
		})
	}
}
