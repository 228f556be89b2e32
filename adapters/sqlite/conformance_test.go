package sqlite_test

import (
	"database/sql"
	"os"
	"path/filepath"
	"testing"

	"github.com/twostep-mq/twostep/adapters/sqlite"
	"github.com/twostep-mq/twostep/outbox/outboxtest"
	"github.com/twostep-mq/twostep/topics"
	"github.com/twostep-mq/twostep/topics/topicstest"
)

// open makes a migrated database in a folder of the test's own.
func open(t testing.TB, opts ...sqlite.Option) (*sql.DB, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "test.db")
	db := openAt(t, path, opts...)
	for _, set := range []sqlite.Set{sqlite.Service, sqlite.Orchestrator} {
		if err := sqlite.Migrate(t.Context(), db, set); err != nil {
			t.Fatal(err)
		}
	}
	return db, path
}

func openAt(t testing.TB, path string, opts ...sqlite.Option) *sql.DB {
	t.Helper()
	db, err := sqlite.Open(path, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func outboxOf(t *testing.T, db *sql.DB, path string) outboxtest.Database {
	t.Helper()
	o, err := sqlite.NewOutbox(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	return outboxtest.Database{
		DB: db, Store: o, Relay: o,
		Another: func(t *testing.T) outboxtest.Database { return outboxOf(t, openAt(t, path), path) },
		Restore: func(t *testing.T) { replace(t, db, path) },
	}
}

// replace puts a copy of the database in its place, as somebody who restores a backup does.
func replace(t *testing.T, db *sql.DB, path string) {
	t.Helper()
	restored := path + ".restored"
	if _, err := db.ExecContext(t.Context(), `VACUUM INTO '`+restored+`'`); err != nil {
		t.Fatal(err)
	}
	for _, of := range []string{"-wal", "-shm"} {
		if err := os.Remove(path + of); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	if err := os.Rename(restored, path); err != nil {
		t.Fatal(err)
	}
}

func TestOutboxConformance(t *testing.T) {
	t.Parallel()
	outboxtest.Run(t, outboxtest.Harness{Open: func(t *testing.T) outboxtest.Database {
		db, path := open(t)
		return outboxOf(t, db, path)
	}})
}

func consumerOf(t *testing.T, db *sql.DB, path string) topicstest.Database {
	t.Helper()
	c, err := sqlite.NewConsumer(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	return topicstest.Database{
		DB: db, Store: c,
		Another: func(t *testing.T) topicstest.Database { return consumerOf(t, openAt(t, path), path) },
	}
}

func TestConsumerConformance(t *testing.T) {
	t.Parallel()
	topicstest.Run(t, topicstest.Harness{Open: func(t *testing.T) topicstest.Database {
		db, path := open(t)
		return consumerOf(t, db, path)
	}})
}

func registryOf(t *testing.T, db *sql.DB) topics.RegistryStore {
	t.Helper()
	r, err := sqlite.NewRegistry(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRegistryConformance(t *testing.T) {
	t.Parallel()
	topicstest.RunRegistry(t, topicstest.RegistryHarness{Open: func(t *testing.T) (topics.RegistryStore, func(*testing.T) topics.RegistryStore) {
		db, path := open(t)
		return registryOf(t, db), func(t *testing.T) topics.RegistryStore { return registryOf(t, openAt(t, path)) }
	}})
}
