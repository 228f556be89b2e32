package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/twostep-mq/twostep/adapters/postgres"
	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/topics"
)

// idleConns is how many connections a pool keeps. database/sql's default of two would open and close one for nearly every transaction
// of a busy service.
const idleConns = 32

type postgresAdapter struct {
	connect *pgx.ConnConfig
	cfg     postgres.Config
}

func newPostgres(c Config) (*postgresAdapter, error) {
	connect, err := pgx.ParseConfig(c.DSN)
	if err != nil {
		// The driver's error repeats parts of the DSN, and where the DSN is malformed it does not know which of them are secret.
		return nil, errors.New("postgres: the DSN is not one: use postgres://user:password@host:port/database, or host=… port=… user=… password=… dbname=…")
	}
	if c.Name != "" {
		connect.Database = c.Name
	}
	return &postgresAdapter{
		connect: connect,
		cfg:     postgres.Config{Schema: c.Schema, Prefix: c.Prefix, AllowUnsafeDurability: c.AllowUnsafeDurability},
	}, nil
}

func (a *postgresAdapter) open() (*sql.DB, error) {
	db := stdlib.OpenDB(*a.connect)
	db.SetMaxIdleConns(idleConns)
	return db, nil
}

func (a *postgresAdapter) migrations(set Set) ([]Migration, error) {
	list, err := postgres.MigrationsSQL(postgres.Set(set), a.cfg)
	return postgresMigrations(list), err
}

func (a *postgresAdapter) migrate(ctx context.Context, db *sql.DB, set Set) error {
	return inOneLine(postgres.Migrate(ctx, db, postgres.Set(set), a.cfg))
}

func (a *postgresAdapter) status(ctx context.Context, db *sql.DB, set Set) ([]Migration, error) {
	list, err := postgres.Status(ctx, db, postgres.Set(set), a.cfg)
	return postgresMigrations(list), inOneLine(err)
}

func postgresMigrations(list []postgres.Migration) (all []Migration) {
	for _, m := range list {
		all = append(all, Migration{m.Name, m.SQL, m.AppliedAt})
	}
	return all
}

func (a *postgresAdapter) outbox(ctx context.Context, db *sql.DB) (Outbox, error) {
	store, err := postgres.NewOutbox(ctx, db, a.cfg)
	return store, inOneLine(err)
}

func (a *postgresAdapter) consumer(ctx context.Context, db *sql.DB) (topics.Store, error) {
	store, err := postgres.NewConsumer(ctx, db, a.cfg)
	return store, inOneLine(err)
}

func (a *postgresAdapter) registry(ctx context.Context, db *sql.DB) (topics.RegistryStore, error) {
	store, err := postgres.NewRegistry(ctx, db, a.cfg)
	return store, inOneLine(err)
}

func (a *postgresAdapter) examine(ctx context.Context, db *sql.DB, set Set) []broker.Finding {
	return postgres.Examine(ctx, db, postgres.Set(set), a.cfg)
}

func (a *postgresAdapter) name() string { return a.connect.Database }

func (a *postgresAdapter) where() string {
	return "postgres " + net.JoinHostPort(a.connect.Host, strconv.Itoa(int(a.connect.Port)))
}

// SQLSTATE codes of a server that takes no connection.
const (
	codeWrongPassword   = "28P01"
	codeNoAuthorization = "28000"
	codeNoDatabase      = "3D000"
	codeNoRight         = "42501"
	codeTooMany         = "53300"
)

func (a *postgresAdapter) refusal(err error) error {
	var refused *pgconn.PgError
	if !errors.As(err, &refused) {
		return unreachable(a.where(), plainCause(err))
	}
	switch refused.Code {
	case codeWrongPassword, codeNoAuthorization:
		return fmt.Errorf("%s refuses user %q (%s): correct user and password in the DSN", a.where(), a.connect.User, oneLine(refused.Message))
	case codeNoDatabase:
		return fmt.Errorf("%s has no database %q: CREATE DATABASE %s, or correct the DSN", a.where(), a.connect.Database, a.connect.Database)
	case codeNoRight:
		return fmt.Errorf("%s lets user %q not into database %q: GRANT CONNECT ON DATABASE %s TO %s", a.where(), a.connect.User, a.connect.Database, a.connect.Database, a.connect.User)
	case codeTooMany:
		return unreachable(a.where(), "too many connections: raise max_connections, or use a pooler")
	}
	if strings.HasPrefix(refused.Code, "57P") { // starting up, shutting down
		return unreachable(a.where(), refused.Message)
	}
	return fmt.Errorf("%s: %s (SQLSTATE %s)", a.where(), oneLine(refused.Message), refused.Code)
}

// plainCause is what the network said, without what the driver puts around it.
func plainCause(err error) string {
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		return op.Err.Error()
	}
	var name *net.DNSError
	if errors.As(err, &name) {
		return "no such host: " + name.Name
	}
	return err.Error()
}

func (a *postgresAdapter) version(ctx context.Context, db *sql.DB) (string, error) {
	var v string
	err := db.QueryRowContext(ctx, "SHOW server_version").Scan(&v)
	v, _, _ = strings.Cut(v, " ") // "15.9 (Debian 15.9-0)"
	return "PostgreSQL " + v, err
}

func (a *postgresAdapter) commits(ctx context.Context, db *sql.DB) (int64, error) {
	return postgres.Commits(ctx, db)
}

func (a *postgresAdapter) statements(ctx context.Context, db *sql.DB) (n int64, err error) {
	err = db.QueryRowContext(ctx, "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()").Scan(&n)
	return n, err
}

func (a *postgresAdapter) create(ctx context.Context, db *sql.DB, name string) error {
	var there bool
	if err := db.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM pg_database WHERE datname = $1)", name).Scan(&there); err != nil || there {
		return err
	}
	_, err := db.ExecContext(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize()+" ENCODING 'UTF8' TEMPLATE template0")
	return err
}

func (a *postgresAdapter) drop(ctx context.Context, db *sql.DB, name string) error {
	_, err := db.ExecContext(ctx, "DROP DATABASE IF EXISTS "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)")
	return err
}
