package sqlite_test

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/adapters/sqlite"
)

func TestOpenSettings(t *testing.T) {
	t.Parallel()
	db, _ := open(t)
	// On several connections at once: each has to be set up.
	for range 3 {
		c, err := db.Conn(t.Context())
		noError(t, err)
		defer func() { _ = c.Close() }()
		for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1", "busy_timeout": "10000", "query_only": "0"} {
			var got string
			noError(t, c.QueryRowContext(t.Context(), "PRAGMA "+pragma).Scan(&got))
			if got != want {
				t.Errorf("%s is %s, want %s", pragma, got, want)
			}
		}
	}
}

func TestPragmaIsNotAnsweredFromTheCache(t *testing.T) {
	t.Parallel()
	db, _ := open(t)
	db.SetMaxOpenConns(1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, want := range []string{"1000", "2000", "1000", "2000"} {
		_, err := db.ExecContext(ctx, "PRAGMA busy_timeout="+want)
		noError(t, err)
		var got string
		noError(t, db.QueryRowContext(ctx, " pragma busy_timeout").Scan(&got))
		if got != want {
			t.Fatalf("busy_timeout is %s, want %s", got, want)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	notDatabase := filepath.Join(dir, "text")
	noError(t, os.WriteFile(notDatabase, []byte(strings.Repeat("this is no database\n", 100)), 0o600))
	for _, c := range []struct {
		path string
		opts []sqlite.Option
		want string
	}{
		{":memory:", nil, "in memory"},
		{"", nil, "in memory"},
		{"file:a.db?cache=shared", nil, "not a DSN"},
		{filepath.Join(dir, "a.db?_sync=0"), nil, "not a DSN"},
		{filepath.Join(dir, "none.db"), []sqlite.Option{sqlite.MustExist()}, "no such file"},
		{filepath.Join(dir, "no-folder", "a.db"), nil, "unable to open"},
		{notDatabase, nil, "no SQLite database"},
	} {
		db, err := sqlite.Open(c.path, c.opts...)
		if err == nil {
			_ = db.Close()
			t.Errorf("%q: opened", c.path)
		} else if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.path, err, c.want)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "none.db")); err == nil {
		t.Error("MustExist has made the file")
	}
}

func TestOpenTakesAnyFileName(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a b.db", "100%.db", "a#b.db", "a&b=c.db", "ü'\".db", "%41.db"} {
		path := filepath.Join(t.TempDir(), name)
		db := openAt(t, path)
		noError(t, sqlite.Migrate(t.Context(), db, sqlite.Service))
		if _, err := os.Stat(path); err != nil {
			t.Errorf("%q: the file is elsewhere: %v", name, err)
		}
	}
}

// TestOtherDriversAreRefused: with the plain driver nothing says how safely it was opened.
func TestOtherDriversAreRefused(t *testing.T) {
	t.Parallel()
	_, path := open(t)
	plain := sql.OpenDB(plainConnector{path})
	defer func() { _ = plain.Close() }()
	ctx := t.Context()
	for name, construct := range map[string]func(*sql.DB) error{
		"outbox":   func(db *sql.DB) error { _, err := sqlite.NewOutbox(ctx, db); return err },
		"consumer": func(db *sql.DB) error { _, err := sqlite.NewConsumer(ctx, db); return err },
		"registry": func(db *sql.DB) error { _, err := sqlite.NewRegistry(ctx, db); return err },
		"migrate":  func(db *sql.DB) error { return sqlite.Migrate(ctx, db, sqlite.Service) },
	} {
		err := construct(plain)
		if err == nil || !strings.Contains(err.Error(), "open it with sqlite.Open") || !strings.Contains(err.Error(), "power loss") {
			t.Errorf("%s: %v", name, err)
		}
		if err := construct(nil); err == nil {
			t.Errorf("%s: took no database", name)
		}
	}
}

func TestMissingTables(t *testing.T) {
	t.Parallel()
	db := openAt(t, filepath.Join(t.TempDir(), "empty.db"))
	_, err := sqlite.NewOutbox(t.Context(), db)
	if !errors.Is(err, sqlite.ErrNoTables) || !strings.Contains(err.Error(), "sqlite.Migrate") {
		t.Fatalf("%v, want ErrNoTables", err)
	}
	noError(t, sqlite.Migrate(t.Context(), db, sqlite.Service))
	_, err = sqlite.NewRegistry(t.Context(), db)
	if !errors.Is(err, sqlite.ErrNoTables) || !strings.Contains(err.Error(), `"orchestrator"`) {
		t.Fatalf("%v, want ErrNoTables", err)
	}
}

// TestDeletedFileDoesNotComeBackEmpty: an empty database in its place would be taken for an outbox without messages.
func TestDeletedFileDoesNotComeBackEmpty(t *testing.T) {
	t.Parallel()
	db, path := open(t)
	box, err := sqlite.NewOutbox(t.Context(), db)
	noError(t, err)
	for _, f := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(path + f); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	if _, err := box.Scan(t.Context(), 0, 10, true); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("scan: %v", err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the file is there again")
	}
}

func TestReadOnlyTransaction(t *testing.T) {
	t.Parallel()
	db, _ := open(t, sqlite.BusyTimeout(50*time.Millisecond))
	ctx := t.Context()
	writer, err := db.BeginTx(ctx, nil)
	noError(t, err)
	defer func() { _ = writer.Rollback() }()
	reader, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	noError(t, err) // it does not wait for the writer
	var n int
	noError(t, reader.QueryRowContext(ctx, `SELECT count(*) FROM twostep_outbox`).Scan(&n))
	if _, err := reader.ExecContext(ctx, `DELETE FROM twostep_outbox`); err == nil {
		t.Error("a read-only transaction has written")
	}
	noError(t, reader.Commit())
	noError(t, writer.Commit())
	db.SetMaxOpenConns(1) // the reader's connection, or one like it, writes again
	_, err = db.ExecContext(ctx, `DELETE FROM twostep_outbox`)
	noError(t, err)
}

func noError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
