// Package mysql keeps outboxes, barriers, parked messages and the registry in MySQL (8.0 or newer) or MariaDB (10.6 or newer).
// It implements outbox.Store, outbox.RelayStore, topics.Store and topics.RegistryStore on github.com/go-sql-driver/mysql.
//
// A database is opened with Open, or by the service in its own way, migrated with Migrate, and then given to NewOutbox,
// NewConsumer or NewRegistry. Which of the two servers it is, the server is asked.
package mysql

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/go-sql-driver/mysql"
)

// DefaultPrefix is what the names of all tables begin with.
const DefaultPrefix = "twostep_"

// Config of what this package keeps in a database. The zero value works.
type Config struct {
	// Prefix of the tables' names, [A-Za-z_][A-Za-z0-9_]*; empty: DefaultPrefix. All that share tables must give the same one.
	Prefix string
	// AllowUnsafeDurability accepts a server that may lose what it has acknowledged. The promises of twostep do not hold then.
	AllowUnsafeDurability bool
}

const (
	// maxIdentifier is how long names may be in MySQL and MariaDB.
	maxIdentifier = 64
	// longestName is the longest of the tables' names without the prefix, with what MySQL appends to name its constraints.
	longestName = len("migration_orchestrator") + len("_chk_99")
	maxPrefix   = maxIdentifier - longestName
)

func (c Config) withDefaults() Config {
	if c.Prefix == "" {
		c.Prefix = DefaultPrefix
	}
	return c
}

func (c Config) validate() error {
	if ok, err := regexp.MatchString(`^[A-Za-z_][A-Za-z0-9_]{0,62}$`, c.Prefix); err != nil || !ok {
		return fmt.Errorf("mysql: table prefix %q: use a letter or _, then letters, digits and _", c.Prefix)
	}
	if len(c.Prefix) > maxPrefix {
		return fmt.Errorf("mysql: table prefix %q: names of tables would exceed the server's %d bytes; use at most %d", c.Prefix, maxIdentifier, maxPrefix)
	}
	return nil
}

// sql puts the names of the tables into a statement: {p} stands for the prefix. The prefix is checked (validate), so it can be nothing
// but a part of a name.
func (c Config) sql(statement string) string { return strings.ReplaceAll(statement, "{p}", c.Prefix) }

// idleConns is how many connections a pool keeps. database/sql's default of two would open and close a connection for
// nearly every transaction of a busy service.
const idleConns = 32

// Open opens the database that the DSN names, in the form of github.com/go-sql-driver/mysql (user:password@tcp(host:port)/name).
// Values are put into statements by the driver (interpolateParams), which saves a round trip a statement, unless the DSN says
// otherwise. Nothing is sent yet.
func Open(dsn string) (*sql.DB, error) {
	parsed, err := mysql.ParseDSN(dsn)
	if err != nil {
		// The driver's error does not repeat the DSN, which holds a password.
		return nil, fmt.Errorf("mysql: open: %w; a DSN is user:password@tcp(host:port)/database", err)
	}
	if parsed.DBName == "" {
		return nil, errors.New("mysql: open: the DSN names no database: user:password@tcp(host:port)/database")
	}
	if !strings.Contains(dsn, "interpolateParams=") {
		parsed.InterpolateParams = true
	}
	parsed.Logger = &mysql.NopLogger{} // what it would log it also returns
	connector, err := mysql.NewConnector(parsed)
	if err != nil {
		return nil, fmt.Errorf("mysql: open: %w", err)
	}
	db := sql.OpenDB(connector)
	db.SetMaxIdleConns(idleConns)
	return db, nil
}

// discard closes a connection instead of giving it back to its pool: nobody knows what it would do to the next one.
func discard(conn *sql.Conn) {
	_ = conn.Raw(func(any) error { return driver.ErrBadConn })
	_ = conn.Close()
}

// querier is what *sql.DB, *sql.Conn and *sql.Tx have in common here.
type querier interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}
