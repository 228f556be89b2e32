package sqlite_test

import (
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twostep-mq/twostep/adapters/sqlite"
	"github.com/twostep-mq/twostep/broker"
)

// finding is the one of a check.
func finding(t *testing.T, all []broker.Finding, check string) broker.Finding {
	t.Helper()
	for _, f := range all {
		if f.Check == check {
			return f
		}
	}
	t.Fatalf("no finding %q in %+v", check, all)
	return broker.Finding{}
}

func wantFinding(t *testing.T, all []broker.Finding, check string, level broker.Level, fix string) {
	t.Helper()
	if f := finding(t, all, check); f.Level != level || !strings.Contains(f.Fix, fix) || (level == broker.LevelOK) != (f.Problem == "") {
		t.Errorf("%s: %+v, want level %s and the fix %q", check, f, level, fix)
	}
}

func TestExamine(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "examined.db")
	db, err := sqlite.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	found := sqlite.Examine(t.Context(), db, sqlite.Service)
	wantFinding(t, found, "schema", broker.LevelError, "twostep migrate --driver sqlite --dsn "+path+" --for service")
	if err := sqlite.Migrate(t.Context(), db, sqlite.Service); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	found = sqlite.Examine(t.Context(), db, sqlite.Service)
	for _, check := range []string{"version", "journal mode", "synchronous", "file", "write-ahead log", "free pages", "integrity", "schema"} {
		wantFinding(t, found, check, broker.LevelOK, "")
	}
	for mode, level := range map[os.FileMode]broker.Level{0o640: broker.LevelNote, 0o622: broker.LevelWarning} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		wantFinding(t, sqlite.Examine(t.Context(), db, sqlite.Service), "file", level, "chmod 600 "+path)
	}
}

// A damaged page of a table is found, and named.
func TestExamineDamagedFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "damaged.db")
	db, err := sqlite.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := sqlite.Migrate(t.Context(), db, sqlite.Service); err != nil {
		t.Fatal(err)
	}
	var root, size int64
	err = db.QueryRowContext(t.Context(), "SELECT rootpage, page_size FROM sqlite_master, pragma_page_size WHERE name = 'twostep_parked'").Scan(&root, &size)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), "PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("not a page of a table"), (root-1)*size); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if db, err = sqlite.Open(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	wantFinding(t, sqlite.Examine(t.Context(), db, sqlite.Service), "integrity", broker.LevelError, "restore a backup")
}

func TestExamineForeignDatabase(t *testing.T) {
	t.Parallel()
	db, err := sql.Open("sqlite3", filepath.Join(t.TempDir(), "foreign.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	wantFinding(t, sqlite.Examine(t.Context(), db, sqlite.Service), "driver", broker.LevelError, "sqlite.Open")
}
