package mysql

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
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
func (s Set) versionTable(cfg Config) string { return cfg.Prefix + "migration_" + string(s) }

// Migration is one step of a set.
type Migration struct {
	Version int64
	Name    string
	// SQL makes the step and records it; run by hand it has the same effect as Migrate.
	SQL string
	// AppliedAt is when a database got it; zero where it has not, and in MigrationsSQL.
	AppliedAt time.Time

	statements []string
}

// Migrate brings the tables of a set up to date. Any number of processes may do so at once: they wait for each other (GET_LOCK). The
// servers commit each statement that makes a table, so a step that was cut short stands in part; its statements can be
// repeated, and the next Migrate does so.
func Migrate(ctx context.Context, db *sql.DB, set Set, cfg Config) error {
	cfg = cfg.withDefaults()
	list, err := MigrationsSQL(set, cfg)
	if err != nil {
		return err
	}
	vars, err := variables(ctx, db)
	if err != nil {
		return explain("migrate", err)
	}
	if err := vars.checkVersion(); err != nil {
		return err
	}
	provider, err := newProvider(db, set, cfg, list)
	if err != nil {
		return err
	}
	if err := makeVersionTable(ctx, db, set.versionTable(cfg)); err != nil {
		return explain("migrate", err)
	}
	if _, err := provider.Up(ctx); err != nil {
		return explain("migrate", err)
	}
	return nil
}

func newProvider(db *sql.DB, set Set, cfg Config, list []Migration) (*goose.Provider, error) {
	steps := make([]*goose.Migration, len(list))
	for i, m := range list {
		steps[i] = goose.NewGoMigration(m.Version, &goose.GoFunc{RunTx: m.run}, nil)
	}
	provider, err := goose.NewProvider(database.DialectMySQL, db, nil,
		goose.WithTableName(set.versionTable(cfg)), goose.WithGoMigrations(steps...), goose.WithSessionLocker(migrationLock{set.versionTable(cfg)}),
		goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return nil, fmt.Errorf("mysql: migrations of %s: %w", set, err)
	}
	return provider, nil
}

func (m Migration) run(ctx context.Context, tx *sql.Tx) error {
	for _, statement := range m.statements {
		if _, err := tx.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("%s: %w", m.Name, err)
		}
	}
	return nil
}

// migrationLock lets one process at a time migrate a set of a database. The lock goes with its session.
type migrationLock struct{ table string }

// lockPatience is how long others may take to migrate.
const lockPatience = 5 * time.Minute

// nameOfLock: locks are named for the whole server, in at most 64 bytes.
const nameOfLock = "CONCAT('twostep:', LEFT(SHA2(CONCAT(DATABASE(), '.', ?), 256), 40))"

func (l migrationLock) SessionLock(ctx context.Context, conn *sql.Conn) error {
	var got sql.NullInt64
	if err := conn.QueryRowContext(ctx, "SELECT GET_LOCK("+nameOfLock+", ?)", l.table, int(lockPatience.Seconds())).Scan(&got); err != nil {
		return err
	}
	if got.Int64 != 1 {
		return fmt.Errorf("mysql: another process has been migrating %s for %v: look what it does (SHOW PROCESSLIST), then try again", l.table, lockPatience)
	}
	return nil
}

func (l migrationLock) SessionUnlock(ctx context.Context, conn *sql.Conn) error {
	var freed sql.NullInt64
	return conn.QueryRowContext(ctx, "SELECT RELEASE_LOCK("+nameOfLock+")", l.table).Scan(&freed)
}

// makeVersionTable makes the table with its first row, under the lock. goose looks into it before it takes the lock, and fails where
// another process has made the table and not yet the row: making a table is committed by itself.
func makeVersionTable(ctx context.Context, db *sql.DB, table string) error {
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	lock := migrationLock{table}
	if err := lock.SessionLock(ctx, conn); err != nil {
		discard(conn)
		return err
	}
	for _, statement := range versionTableSQL(table) {
		if _, err := conn.ExecContext(ctx, statement); err != nil {
			discard(conn) // the lock goes with it
			return err
		}
	}
	if err := lock.SessionUnlock(ctx, conn); err != nil {
		discard(conn)
		return err
	}
	return conn.Close()
}

// versionTableSQL is the table as goose makes it.
func versionTableSQL(table string) []string {
	return []string{
		"CREATE TABLE IF NOT EXISTS `" + table + "` (\n  id bigint(20) unsigned NOT NULL AUTO_INCREMENT,\n  version_id bigint NOT NULL,\n" +
			"  is_applied boolean NOT NULL,\n  tstamp datetime NULL default CURRENT_TIMESTAMP,\n  PRIMARY KEY(id)\n)",
		"INSERT INTO `" + table + "` (version_id, is_applied) SELECT 0, 1 FROM (SELECT COUNT(*) AS n FROM `" + table + "`) v WHERE v.n = 0",
	}
}

// MigrationsSQL lists the migrations of a set, oldest first, for reading or running by hand.
func MigrationsSQL(set Set, cfg Config) ([]Migration, error) {
	if set != Service && set != Orchestrator {
		return nil, fmt.Errorf("mysql: unknown set of tables %q: use %q or %q", string(set), Service, Orchestrator)
	}
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	names, err := fs.Glob(migrationFiles, path.Join("migrations", string(set), "*.sql")) // sorted by name, and so by number
	if err != nil {
		return nil, fmt.Errorf("mysql: migrations of %s: %w", set, err)
	}
	list := make([]Migration, 0, len(names))
	for i, name := range names {
		text, err := fs.ReadFile(migrationFiles, name)
		if err != nil {
			return nil, fmt.Errorf("mysql: migrations of %s: %w", set, err)
		}
		number, _, _ := strings.Cut(path.Base(name), "_")
		version, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("mysql: migrations of %s: %s begins with no number: %w", set, name, err)
		}
		m := Migration{Version: version, Name: path.Base(name), statements: statementsOf(cfg.sql(string(text)))}
		var byHand []string
		if i == 0 {
			byHand = versionTableSQL(set.versionTable(cfg))
		}
		byHand = append(byHand, m.statements...)
		byHand = append(byHand, fmt.Sprintf("INSERT INTO `%s` (version_id, is_applied) VALUES (%d, 1)", set.versionTable(cfg), version))
		m.SQL = strings.Join(byHand, ";\n\n") + ";\n"
		list = append(list, m)
	}
	return list, nil
}

// statementsOf splits a migration at the semicolons that end lines. Comments stay with what follows them.
func statementsOf(text string) (list []string) {
	for part := range strings.SplitSeq(text, ";\n") {
		if part = strings.TrimSpace(part); part != "" {
			list = append(list, part)
		}
	}
	return list
}

// Status lists the migrations of a set and when the database got them.
func Status(ctx context.Context, db *sql.DB, set Set, cfg Config) ([]Migration, error) {
	cfg = cfg.withDefaults()
	list, err := MigrationsSQL(set, cfg)
	if err != nil {
		return nil, err
	}
	applied, err := appliedMigrations(ctx, db, set.versionTable(cfg))
	if err != nil {
		return nil, explain("read migrations", err)
	}
	for i := range list {
		list[i].AppliedAt = applied[list[i].Version]
	}
	return list, nil
}

// appliedMigrations reads the version table; without one, nothing was applied.
func appliedMigrations(ctx context.Context, db *sql.DB, table string) (applied map[int64]time.Time, err error) {
	applied = map[int64]time.Time{}
	//nolint:gosec // G202: the table's name is of a checked prefix and one of two constants
	rows, err := db.QueryContext(ctx, "SELECT version_id, CAST(UNIX_TIMESTAMP(tstamp) AS SIGNED) FROM `"+table+"` WHERE is_applied = 1")
	if is(err, codeNoSuchTable) {
		return applied, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
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
func checkTables(ctx context.Context, db *sql.DB, cfg Config, set Set) error {
	list, err := Status(ctx, db, set, cfg)
	if err != nil {
		return err
	}
	for _, m := range list {
		if m.AppliedAt.IsZero() {
			return fmt.Errorf("%w: with the prefix %s the database lacks %s: run mysql.Migrate(ctx, db, %q, cfg) or `twostep migrate`",
				ErrNoTables, cfg.Prefix, m.Name, string(set))
		}
	}
	return nil
}
