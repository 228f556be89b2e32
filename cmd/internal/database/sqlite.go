package database

import (
	"context"
	"database/sql"
	"errors"
	"sync/atomic"

	"github.com/twostep-mq/twostep/adapters/sqlite"
	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/topics"
)

type sqliteAdapter struct {
	cfg     Config
	counted atomic.Int64 // by the commit hook, on every connection
}

func (a *sqliteAdapter) open() (*sql.DB, error) {
	if a.cfg.DSN == "" {
		return nil, errors.New("sqlite: no file is named")
	}
	options := []sqlite.Option{sqlite.WithCommitHook(func() { a.counted.Add(1) })}
	if a.cfg.MustExist {
		options = append(options, sqlite.MustExist())
	}
	return sqlite.Open(a.cfg.DSN, options...)
}

func (a *sqliteAdapter) migrations(set Set) ([]Migration, error) {
	list, err := sqlite.MigrationsSQL(sqlite.Set(set))
	return sqliteMigrations(list), err
}

func (a *sqliteAdapter) migrate(ctx context.Context, db *sql.DB, set Set) error {
	return sqlite.Migrate(ctx, db, sqlite.Set(set))
}

func (a *sqliteAdapter) status(ctx context.Context, db *sql.DB, set Set) ([]Migration, error) {
	list, err := sqlite.Status(ctx, db, sqlite.Set(set))
	return sqliteMigrations(list), err
}

func sqliteMigrations(list []sqlite.Migration) (all []Migration) {
	for _, m := range list {
		all = append(all, Migration{m.Name, m.SQL, m.AppliedAt})
	}
	return all
}

func (a *sqliteAdapter) outbox(ctx context.Context, db *sql.DB) (Outbox, error) {
	return sqlite.NewOutbox(ctx, db)
}

func (a *sqliteAdapter) consumer(ctx context.Context, db *sql.DB) (topics.Store, error) {
	return sqlite.NewConsumer(ctx, db)
}

func (a *sqliteAdapter) registry(ctx context.Context, db *sql.DB) (topics.RegistryStore, error) {
	return sqlite.NewRegistry(ctx, db)
}

func (a *sqliteAdapter) examine(ctx context.Context, db *sql.DB, set Set) []broker.Finding {
	return sqlite.Examine(ctx, db, sqlite.Set(set))
}

func (a *sqliteAdapter) name() string { return "" }

func (a *sqliteAdapter) where() string { return "sqlite " + a.cfg.DSN }

func (a *sqliteAdapter) refusal(err error) error { return inOneLine(err) }

func (a *sqliteAdapter) version(ctx context.Context, db *sql.DB) (string, error) {
	var v string
	err := db.QueryRowContext(ctx, "SELECT sqlite_version()").Scan(&v)
	return "SQLite " + v, err
}

func (a *sqliteAdapter) commits(context.Context, *sql.DB) (int64, error) {
	return a.counted.Load(), nil
}

func (a *sqliteAdapter) statements(context.Context, *sql.DB) (int64, error) { return 0, ErrNotCounted }

// errFiles: the databases of SQLite are files.
var errFiles = errors.New("an SQLite database is a file: make or remove that")

func (a *sqliteAdapter) create(context.Context, *sql.DB, string) error { return errFiles }
func (a *sqliteAdapter) drop(context.Context, *sql.DB, string) error   { return errFiles }
