package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/pressly/goose/v3"
)

//go:embed migrations/*/*.sql
var migrationFiles embed.FS

// Set is a set of tables that belong together.
type Set string

const (
	// Service is what a service's own database needs: outbox, barrier, parked messages.
	Service Set = "service"
	// Orchestrator is what the server's database needs: the registry.
	Orchestrator Set = "orchestrator"
)

// versionTable records which migrations of the set a database has. Both sets may live in one database.
func (s Set) versionTable() string { return "twostep_migration_" + string(s) }

func (s Set) files() (fs.FS, error) {
	if s != Service && s != Orchestrator {
		return nil, fmt.Errorf("sqlite: unknown set of tables %q: use %q or %q", string(s), Service, Orchestrator)
	}
	return fs.Sub(migrationFiles, path.Join("migrations", string(s)))
}

// Migration is one step of a set.
type Migration struct {
	Version int64
	Name    string
	// SQL makes the step and records it; run by hand it has the same effect as Migrate.
	SQL string
	// AppliedAt is when a database got it; zero where it has not, and in MigrationsSQL.
	AppliedAt time.Time
}

// Migrate brings the tables of a set up to date. Any number of processes may do so at once.
func Migrate(ctx context.Context, db *sql.DB, set Set) error {
	drv, err := opened(db)
	if err != nil {
		return err
	}
	provider, err := newProvider(db, set)
	if err != nil {
		return err
	}
	if err := makeVersionTable(ctx, db, set); err != nil {
		return explain("migrate", drv.path, err)
	}
	// Each step is one transaction. Where another process was first, the step fails on its tables; then look again how
	// far the database is, until it is done or nobody gets any further.
	for last := int64(-1); ; {
		_, upErr := provider.Up(ctx)
		if upErr == nil {
			return nil
		}
		current, target, err := provider.GetVersions(ctx)
		switch {
		case err != nil:
			return explain("migrate", drv.path, errors.Join(upErr, err))
		case current >= target:
			return nil
		case current == last:
			return explain("migrate", drv.path, upErr)
		}
		last = current
	}
}

func newProvider(db *sql.DB, set Set) (*goose.Provider, error) {
	files, err := set.files()
	if err != nil {
		return nil, err
	}
	provider, err := goose.NewProvider(goose.DialectSQLite3, db, files,
		goose.WithTableName(set.versionTable()), goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return nil, fmt.Errorf("sqlite: migrations of %s: %w", set, err)
	}
	return provider, nil
}

// versionTableSQL is the table as goose makes it. Made by ourselves it may exist already: goose waits a second when two
// processes make it at once.
func versionTableSQL(set Set) string {
	return fmt.Sprintf(`CREATE TABLE IF NOT EXISTS %[1]s (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  version_id INTEGER NOT NULL,
  is_applied INTEGER NOT NULL,
  tstamp TIMESTAMP DEFAULT (datetime('now'))
);
INSERT INTO %[1]s (version_id, is_applied) SELECT 0, 1 WHERE NOT EXISTS (SELECT 1 FROM %[1]s);`, set.versionTable())
}

func makeVersionTable(ctx context.Context, db *sql.DB, set Set) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(ctx, versionTableSQL(set)); err != nil {
		return err
	}
	return tx.Commit()
}

// MigrationsSQL lists the migrations of a set, oldest first, for reading or running by hand.
func MigrationsSQL(set Set) ([]Migration, error) {
	files, err := set.files()
	if err != nil {
		return nil, err
	}
	names, err := fs.Glob(files, "*.sql") // sorted by name, and so by number
	if err != nil {
		return nil, fmt.Errorf("sqlite: migrations of %s: %w", set, err)
	}
	list := make([]Migration, 0, len(names))
	for i, name := range names {
		text, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, fmt.Errorf("sqlite: migrations of %s: %w", set, err)
		}
		version, err := goose.NumericComponent(name)
		if err != nil {
			return nil, fmt.Errorf("sqlite: migrations of %s: %w", set, err)
		}
		list = append(list, Migration{Version: version, Name: name, SQL: byHand(set, version, string(text), i == 0)})
	}
	return list, nil
}

// byHand turns a migration file into SQL that also records itself.
func byHand(set Set, version int64, text string, first bool) string {
	var b strings.Builder
	b.WriteString("BEGIN IMMEDIATE;\n")
	if first {
		b.WriteString(versionTableSQL(set) + "\n")
	}
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "-- +goose") {
			b.WriteString(line)
		}
	}
	fmt.Fprintf(&b, "INSERT INTO %s (version_id, is_applied) VALUES (%d, 1);\nCOMMIT;\n", set.versionTable(), version)
	return b.String()
}

// Status lists the migrations of a set and when the database got them.
func Status(ctx context.Context, db *sql.DB, set Set) ([]Migration, error) {
	drv, err := opened(db)
	if err != nil {
		return nil, err
	}
	list, err := MigrationsSQL(set)
	if err != nil {
		return nil, err
	}
	applied, err := appliedMigrations(ctx, db, set)
	if err != nil {
		return nil, explain("read migrations", drv.path, err)
	}
	for i := range list {
		list[i].AppliedAt = applied[list[i].Version]
	}
	return list, nil
}

// appliedMigrations reads the version table; without one, nothing was applied.
func appliedMigrations(ctx context.Context, db *sql.DB, set Set) (map[int64]time.Time, error) {
	applied := map[int64]time.Time{}
	var tables int
	err := db.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?`, set.versionTable()).Scan(&tables)
	if err != nil || tables == 0 {
		return applied, err
	}
	//nolint:gosec // G202: the table's name is one of two constants
	query := `SELECT version_id, unixepoch(tstamp) FROM ` + set.versionTable() + ` WHERE is_applied = 1`
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var version, at int64
		if err := rows.Scan(&version, &at); err != nil {
			return nil, err
		}
		applied[version] = time.Unix(at, 0)
	}
	return applied, rows.Err()
}

// checkTables refuses a database that lacks a migration. A newer one is fine: migrations expand first.
func checkTables(ctx context.Context, db *sql.DB, set Set) (*fileDriver, error) {
	drv, err := opened(db)
	if err != nil {
		return nil, err
	}
	list, err := Status(ctx, db, set)
	if err != nil {
		return nil, err
	}
	for _, m := range list {
		if m.AppliedAt.IsZero() {
			return nil, fmt.Errorf("%w: %s lacks %s: run sqlite.Migrate(ctx, db, %q) or `twostep migrate`", ErrNoTables, drv.path, m.Name, string(set))
		}
	}
	return drv, nil
}
