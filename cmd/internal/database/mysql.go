package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	driver "github.com/go-sql-driver/mysql"

	"github.com/twostep-mq/twostep/adapters/mysql"
	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/topics"
)

type mysqlAdapter struct {
	connect *driver.Config
	dsn     string
	cfg     mysql.Config
}

func newMySQL(c Config) (*mysqlAdapter, error) {
	connect, err := driver.ParseDSN(c.DSN)
	if err != nil || connect.Net != "tcp" && connect.Net != "unix" {
		// The driver's error may repeat parts of a malformed DSN, and a network nobody knows may be a part of a password.
		return nil, errors.New("mysql: the DSN is not one: use user:password@tcp(host:port)/database")
	}
	dsn := c.DSN
	if c.Name != "" {
		connect.DBName = c.Name
		dsn = connect.FormatDSN()
	}
	return &mysqlAdapter{
		connect: connect, dsn: dsn,
		cfg: mysql.Config{Prefix: c.Prefix, AllowUnsafeDurability: c.AllowUnsafeDurability},
	}, nil
}

func (a *mysqlAdapter) open() (*sql.DB, error) { return mysql.Open(a.dsn) }

func (a *mysqlAdapter) migrations(set Set) ([]Migration, error) {
	list, err := mysql.MigrationsSQL(mysql.Set(set), a.cfg)
	return mysqlMigrations(list), err
}

func (a *mysqlAdapter) migrate(ctx context.Context, db *sql.DB, set Set) error {
	return inOneLine(mysql.Migrate(ctx, db, mysql.Set(set), a.cfg))
}

func (a *mysqlAdapter) status(ctx context.Context, db *sql.DB, set Set) ([]Migration, error) {
	list, err := mysql.Status(ctx, db, mysql.Set(set), a.cfg)
	return mysqlMigrations(list), inOneLine(err)
}

func mysqlMigrations(list []mysql.Migration) (all []Migration) {
	for _, m := range list {
		all = append(all, Migration{m.Name, m.SQL, m.AppliedAt})
	}
	return all
}

func (a *mysqlAdapter) outbox(ctx context.Context, db *sql.DB) (Outbox, error) {
	store, err := mysql.NewOutbox(ctx, db, a.cfg)
	return store, inOneLine(err)
}

func (a *mysqlAdapter) consumer(ctx context.Context, db *sql.DB) (topics.Store, error) {
	store, err := mysql.NewConsumer(ctx, db, a.cfg)
	return store, inOneLine(err)
}

func (a *mysqlAdapter) registry(ctx context.Context, db *sql.DB) (topics.RegistryStore, error) {
	store, err := mysql.NewRegistry(ctx, db, a.cfg)
	return store, inOneLine(err)
}

func (a *mysqlAdapter) examine(ctx context.Context, db *sql.DB, set Set) []broker.Finding {
	return mysql.Examine(ctx, db, mysql.Set(set), a.cfg)
}

func (a *mysqlAdapter) name() string { return a.connect.DBName }

func (a *mysqlAdapter) where() string { return "mysql " + a.connect.Addr }

// Numbers of the errors of a server that takes no connection.
const (
	errTooMany        = 1040
	errDatabaseDenied = 1044
	errAccessDenied   = 1045
	errNoDatabase     = 1049
	errShutdown       = 1053
)

func (a *mysqlAdapter) refusal(err error) error {
	var refused *driver.MySQLError
	if !errors.As(err, &refused) {
		return unreachable(a.where(), plainCause(err))
	}
	switch refused.Number {
	case errAccessDenied:
		return fmt.Errorf("%s refuses user %q (%s): correct user and password in the DSN", a.where(), a.connect.User, oneLine(refused.Message))
	case errNoDatabase:
		return fmt.Errorf("%s has no database %q: CREATE DATABASE %s, or correct the DSN", a.where(), a.connect.DBName, a.connect.DBName)
	case errDatabaseDenied:
		return fmt.Errorf("%s lets user %q not into database %q: CREATE DATABASE %s, or GRANT its rights to the user", a.where(), a.connect.User, a.connect.DBName, a.connect.DBName)
	case errTooMany:
		return unreachable(a.where(), "too many connections: raise max_connections")
	case errShutdown:
		return unreachable(a.where(), refused.Message)
	}
	return fmt.Errorf("%s: %s (error %d)", a.where(), oneLine(refused.Message), refused.Number)
}

func (a *mysqlAdapter) version(ctx context.Context, db *sql.DB) (string, error) {
	var v string
	err := db.QueryRowContext(ctx, "SELECT version()").Scan(&v)
	number, _, _ := strings.Cut(v, "-") // "10.11.19-MariaDB-0+deb12u1"
	if strings.Contains(strings.ToLower(v), "mariadb") {
		return "MariaDB " + number, err
	}
	return "MySQL " + number, err
}

func (a *mysqlAdapter) commits(ctx context.Context, db *sql.DB) (int64, error) {
	return mysql.Commits(ctx, db)
}

func (a *mysqlAdapter) statements(ctx context.Context, db *sql.DB) (n int64, err error) {
	var name string
	err = db.QueryRowContext(ctx, "SHOW GLOBAL STATUS LIKE 'Questions'").Scan(&name, &n)
	return n, err
}

func (a *mysqlAdapter) create(ctx context.Context, db *sql.DB, name string) error {
	_, err := db.ExecContext(ctx, "CREATE DATABASE IF NOT EXISTS `"+name+"`")
	return err
}

func (a *mysqlAdapter) drop(ctx context.Context, db *sql.DB, name string) error {
	_, err := db.ExecContext(ctx, "DROP DATABASE IF EXISTS `"+name+"`")
	return err
}
