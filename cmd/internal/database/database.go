// Package database opens a database of any kind that twostep has an adapter for, by its kind and DSN. It is for the commands
// here, which take the kind from a flag; a service knows its database and uses that adapter alone.
package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

// Kind of database.
type Kind string

// The kinds there are. MySQL is MariaDB, too: the server is asked which.
const (
	SQLite   Kind = "sqlite"
	Postgres Kind = "postgres"
	MySQL    Kind = "mysql"
)

// Kinds lists all of them.
func Kinds() []Kind { return []Kind{SQLite, Postgres, MySQL} }

// ParseKind reads the name of a kind.
func ParseKind(name string) (Kind, error) {
	if k := Kind(name); slices.Contains(Kinds(), k) {
		return k, nil
	}
	return "", fmt.Errorf("%q is no kind of database: use sqlite, postgres or mysql", name)
}

// Set is a set of tables that belong together.
type Set string

const (
	// Service is what a service's own database needs: outbox, barrier, parked messages.
	Service Set = "service"
	// Orchestrator is what the server's database needs: the registry.
	Orchestrator Set = "orchestrator"
)

// Config names a database.
type Config struct {
	Kind Kind
	// DSN holds a password and is never printed. SQLite: the file.
	DSN string
	// Name of the database, instead of the DSN's; not for SQLite.
	Name string
	// Schema of the tables, PostgreSQL's alone; Prefix of their names, not for SQLite.
	Schema, Prefix string
	// AllowUnsafeDurability accepts a server that may lose what it has acknowledged.
	AllowUnsafeDurability bool
	// MustExist: an SQLite file that is not there is an error, and not made.
	MustExist bool
}

// serverDSN is what the DSNs of servers look like.
var serverDSN = regexp.MustCompile(`^\w+://|@(tcp|unix)\(`)

// Validate says what does not fit together.
func (c Config) Validate() error {
	switch {
	case c.Kind == SQLite && serverDSN.MatchString(c.DSN):
		// It would become the name of a file, with the password in it.
		return errors.New("the DSN is that of a database server: choose postgres or mysql, or name a file")
	case c.Kind == SQLite && (c.Schema != "" || c.Prefix != ""):
		return errors.New("sqlite has neither schemas nor table prefixes here: leave them out")
	case c.Kind == MySQL && c.Schema != "":
		return errors.New("mysql has no schemas besides its databases: name the database in the DSN, and leave the schema out")
	}
	return nil
}

// Migration is one step of a set.
type Migration struct {
	Name, SQL string
	// AppliedAt is when the database got it; zero where it has not.
	AppliedAt time.Time
}

// Outbox is an outbox as its sender and as its relay need it.
type Outbox interface {
	outbox.Store
	outbox.RelayStore
}

// adapter bridges to one of the adapters. Its methods are the adapter's functions, with the configuration put in.
type adapter interface {
	// open reaches no server.
	open() (*sql.DB, error)
	migrations(set Set) ([]Migration, error)
	migrate(ctx context.Context, db *sql.DB, set Set) error
	status(ctx context.Context, db *sql.DB, set Set) ([]Migration, error)
	outbox(ctx context.Context, db *sql.DB) (Outbox, error)
	consumer(ctx context.Context, db *sql.DB) (topics.Store, error)
	registry(ctx context.Context, db *sql.DB) (topics.RegistryStore, error)
	examine(ctx context.Context, db *sql.DB, set Set) []broker.Finding
	server
}

// server is what the kinds of servers answer differently.
type server interface {
	// where names the server for people, without a password: "postgres 127.0.0.1:5432". It is the same for all databases of a server.
	// name is the database on it.
	where() string
	name() string
	// refusal explains why the server took no connection.
	refusal(err error) error
	// version of the server, with its name.
	version(ctx context.Context, db *sql.DB) (string, error)
	// commits counts the writing transactions that the server has committed.
	commits(ctx context.Context, db *sql.DB) (int64, error)
	// statements counts what the server was asked to do.
	statements(ctx context.Context, db *sql.DB) (int64, error)
	create(ctx context.Context, db *sql.DB, name string) error
	drop(ctx context.Context, db *sql.DB, name string) error
}

// Database is an open database.
type Database struct {
	*sql.DB
	Kind    Kind
	adapter adapter
}

// adapterOf chooses by the kind.
func adapterOf(c Config) (adapter, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	switch c.Kind {
	case SQLite:
		return &sqliteAdapter{cfg: c}, nil
	case Postgres:
		return newPostgres(c)
	case MySQL:
		return newMySQL(c)
	}
	return nil, fmt.Errorf("%q is no kind of database: use sqlite, postgres or mysql", c.Kind)
}

// Open opens the database and sees that it answers. What keeps it from that is said in one line, with what to do;
// ErrUnreachable is in it where the server may come yet.
func Open(ctx context.Context, c Config) (*Database, error) {
	a, err := adapterOf(c)
	if err != nil {
		return nil, err
	}
	db, err := a.open()
	if err != nil {
		return nil, err
	}
	d := &Database{DB: db, Kind: c.Kind, adapter: a}
	if err := d.Reach(ctx); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return d, nil
}

// reachTimeout bounds waiting for a server that does not answer.
const reachTimeout = 10 * time.Second

// Reach asks whether the database answers, and explains why not as Open does.
func (d *Database) Reach(ctx context.Context) error {
	asked, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	err := d.PingContext(asked)
	switch {
	case err == nil, ctx.Err() != nil:
		return err
	case errors.Is(err, context.DeadlineExceeded):
		return unreachable(d.Where(), fmt.Sprintf("no answer within %v", reachTimeout))
	}
	return d.adapter.refusal(err)
}

// Migrate brings the tables of a set up to date.
func (d *Database) Migrate(ctx context.Context, set Set) error {
	return d.adapter.migrate(ctx, d.DB, set)
}

// Status lists the migrations of a set and when the database got them.
func (d *Database) Status(ctx context.Context, set Set) ([]Migration, error) {
	return d.adapter.status(ctx, d.DB, set)
}

// Migrations lists the migrations of a set; no database is needed, and no DSN.
func Migrations(c Config, set Set) ([]Migration, error) {
	c.DSN, c.Name = map[Kind]string{Postgres: "host=none", MySQL: "/none"}[c.Kind], ""
	a, err := adapterOf(c)
	if err != nil {
		return nil, err
	}
	return a.migrations(set)
}

// Outbox uses the outbox in the database.
func (d *Database) Outbox(ctx context.Context) (Outbox, error) { return d.adapter.outbox(ctx, d.DB) }

// Consumer uses the barrier and the parked messages in the database.
func (d *Database) Consumer(ctx context.Context) (topics.Store, error) {
	return d.adapter.consumer(ctx, d.DB)
}

// Registry uses the registry in the database.
func (d *Database) Registry(ctx context.Context) (topics.RegistryStore, error) {
	return d.adapter.registry(ctx, d.DB)
}

// Examine looks at everything that twostep rests on in the database and its server.
func (d *Database) Examine(ctx context.Context, set Set) []broker.Finding {
	return d.adapter.examine(ctx, d.DB, set)
}

// Where names the server for people, without a password; SQLite: the file.
func (d *Database) Where() string { return d.adapter.where() }

// Place names the server and the database on it.
func (d *Database) Place() string {
	if name := d.adapter.name(); name != "" {
		return d.Where() + "/" + name
	}
	return d.Where()
}

// Version is the name and version of what answers.
func (d *Database) Version(ctx context.Context) (string, error) {
	v, err := d.adapter.version(ctx, d.DB)
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", d.Where(), err)
	}
	return v, nil
}

// Commits counts writing transactions that have committed: of the whole server, in all its databases; for SQLite those of this Database
// alone. Only differences mean something, and a server that was restarted may begin anew.
func (d *Database) Commits(ctx context.Context) (int64, error) {
	n, err := d.adapter.commits(ctx, d.DB)
	if err != nil {
		return 0, fmt.Errorf("count the commits of %s: %w", d.Where(), err)
	}
	return n, nil
}

// Statements counts what was asked of the server, this question included: statements with MySQL and MariaDB, of all databases; transactions
// with PostgreSQL, of this database, where a statement outside of one is one itself, and up to a second late. SQLite counts nothing:
// ErrNotCounted. Only differences mean something.
func (d *Database) Statements(ctx context.Context) (int64, error) {
	n, err := d.adapter.statements(ctx, d.DB)
	if err != nil {
		return 0, fmt.Errorf("count the statements of %s: %w", d.Where(), err)
	}
	return n, nil
}

// ErrNotCounted: this kind of database has no such counter.
var ErrNotCounted = errors.New("there is no such counter")

// SQL writes a statement as this kind of database wants it: ? are the places of the arguments.
func (d *Database) SQL(statement string) string {
	if d.Kind != Postgres {
		return statement
	}
	var b strings.Builder
	for i, part := range strings.Split(statement, "?") {
		if i > 0 {
			b.WriteString("$" + strconv.Itoa(i))
		}
		b.WriteString(part)
	}
	return b.String()
}
