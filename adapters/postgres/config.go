// Package postgres keeps outboxes, barriers, parked messages and the registry in PostgreSQL, version 13 or later. It implements
// outbox.Store, outbox.RelayStore, topics.Store and topics.RegistryStore on github.com/jackc/pgx/v5.
//
// Databases are *sql.DB of pgx's driver: sql.Open("pgx", dsn), stdlib.OpenDB, or stdlib.OpenDBFromPool around a pgxpool. They are
// migrated with Migrate and then given to NewOutbox, NewConsumer or NewRegistry. Messages may be published in transactions of
// any driver's *sql.Tx on the same database, and in pgx's own through Tx; handlers reach pgx's own calls through Native.
//
// No call leaves anything in a session, so all of it works behind PgBouncer in transaction mode, with
// default_query_exec_mode=exec or simple_protocol in the DSN where that PgBouncer does not know prepared statements. Migrate alone
// takes a lock of the session: give it a direct connection.
package postgres

import (
	"cmp"
	"fmt"
	"regexp"
)

// DefaultPrefix begins the names of all tables.
const DefaultPrefix = "twostep_"

// Config says where the tables are. The zero value works.
type Config struct {
	// Schema of the tables; empty: the first of the search path. Migrate makes it if it is not there. [A-Za-z_][A-Za-z0-9_]{0,62}
	Schema string
	// Prefix of all names; empty: DefaultPrefix. [A-Za-z_][A-Za-z0-9_]{0,62}, and short enough for PostgreSQL's 63 bytes a name.
	Prefix string
	// AllowUnsafeDurability accepts a server that may lose what it has acknowledged. What twostep promises does not hold on it.
	AllowUnsafeDurability bool
}

// maxName is PostgreSQL's limit for names; what is longer it would cut off.
const maxName = 63

// longestName is the longest one made of a prefix: PostgreSQL names the constraints itself and keeps those short.
const longestName = "registry_subscription_name"

var nameForm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,62}$`)

// names puts the schema and the prefix into SQL.
type names struct{ schema, prefix string }

func (c Config) names() (names, error) {
	n := names{schema: c.Schema, prefix: cmp.Or(c.Prefix, DefaultPrefix)}
	if n.schema != "" && !nameForm.MatchString(n.schema) {
		return names{}, fmt.Errorf("postgres: schema %q: use a letter or _ and then letters, digits and _, %d bytes at most", n.schema, maxName)
	}
	if !nameForm.MatchString(n.prefix) || len(n.prefix)+len(longestName) > maxName {
		return names{}, fmt.Errorf("postgres: table prefix %q: use a letter or _ and then letters, digits and _, %d bytes at most", n.prefix, maxName-len(longestName))
	}
	return n, nil
}

// nameInSQL is twostep.NAME, a table or sequence with its schema, or twostep_NAME, the name of an index.
var nameInSQL = regexp.MustCompile(`\btwostep([._])([a-z_]+)`)

// sql puts the real names into a query or migration of this package.
func (n names) sql(text string) string {
	return nameInSQL.ReplaceAllStringFunc(text, func(match string) string {
		part := nameInSQL.FindStringSubmatch(match)
		if part[1] == "." {
			return n.table(part[2])
		}
		return `"` + n.prefix + part[2] + `"`
	})
}

// table is the quoted name of a table.
func (n names) table(name string) string {
	quoted := `"` + n.prefix + name + `"`
	if n.schema == "" {
		return quoted
	}
	return `"` + n.schema + `".` + quoted
}
