package postgres

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/twostep-mq/twostep/broker"
)

const (
	// clockMost is how far the server's clock may be from this process's.
	clockMost = 2 * time.Second
	// transactionMost is how old a transaction may be: it holds gaps of the outbox open, and keeps deleted rows from being cleaned up.
	transactionMost = time.Minute
)

// Examine looks at the database that holds, or shall hold, a set of tables: at the server and its settings, at the tables, at this role's
// rights. It changes nothing. What is in order is in the list, too. Where the server cannot be asked, the list says why and ends there.
func Examine(ctx context.Context, db *sql.DB, set Set, cfg Config) []broker.Finding {
	return (&examination{ctx: ctx, db: db, set: set, cfg: cfg, old: transactionMost}).run()
}

func (e *examination) run() []broker.Finding {
	var err error
	if e.names, err = e.cfg.names(); err == nil {
		e.migrations, err = migrations(e.set, e.names)
	}
	if err == nil {
		err = checkDriver(e.db)
	}
	if err != nil {
		e.add(broker.Finding{Check: "configuration", Level: broker.LevelError, Problem: err.Error(), Fix: "correct what is given to postgres.Examine"})
		return e.found
	}
	if err := e.connect(); err != nil {
		e.add(broker.Finding{Check: "connection", Level: broker.LevelError, Problem: (&oneLineError{err}).Error(), Fix: cmp.Or(remedy(err), "repeat it")})
		return e.found
	}
	e.add(broker.Finding{Check: "connection", Value: fmt.Sprintf("database %s, role %s, schema %s", e.database, e.role, e.schema)})
	e.server()
	e.tables()
	return e.found
}

// examination is one run of Examine.
type examination struct {
	ctx        context.Context
	db         *sql.DB
	set        Set
	cfg        Config
	names      names
	migrations []Migration
	old        time.Duration // a transaction

	database, role, schema string
	standby                bool
	settings               map[string]setting

	found []broker.Finding
}

// setting is one of the server's, and where it was made, as pg_settings says it.
type setting struct{ value, source string }

// add takes a finding down; without a level it is in order.
func (e *examination) add(f broker.Finding) {
	if f.Level == "" {
		f.Level = broker.LevelOK
	}
	e.found = append(e.found, f)
}

// check makes one check that asks the server. Where that fails, this is what was found.
func (e *examination) check(name string, look func() (broker.Finding, error)) {
	f, err := look()
	if err != nil {
		f = broker.Finding{Level: broker.LevelError, Problem: "it could not be looked at: " + (&oneLineError{err}).Error(), Fix: cmp.Or(remedy(err), "repeat it")}
	}
	f.Check = name
	e.add(f)
}

// ask reads one row.
func (e *examination) ask(query string, args []any, into ...any) error {
	return e.db.QueryRowContext(e.ctx, query, args...).Scan(into...)
}

// connect reads what the other checks need.
func (e *examination) connect() error {
	e.schema = e.names.schema
	err := e.ask(`SELECT current_database(), current_user, coalesce(current_schema(), ''), pg_is_in_recovery()`, nil, &e.database, &e.role, &e.schema, &e.standby)
	if err != nil {
		return err
	}
	if e.names.schema != "" {
		e.schema = e.names.schema
	}
	rows, err := e.db.QueryContext(e.ctx, `SELECT name, setting, source FROM pg_settings`)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	e.settings = map[string]setting{}
	for rows.Next() {
		var name string
		var s setting
		if err := rows.Scan(&name, &s.value, &s.source); err != nil {
			return err
		}
		e.settings[name] = s
	}
	return rows.Err()
}

// change is the statement that changes a setting where it was made.
func (e *examination) change(name, value string) string {
	const reload = "; SELECT pg_reload_conf()"
	switch e.settings[name].source {
	case "client", "session":
		return fmt.Sprintf("take %s out of the DSN, or give it the value %s there", name, value)
	case "user":
		return fmt.Sprintf("ALTER ROLE %s SET %s = %s", quoted(e.role), name, value)
	case "database":
		return fmt.Sprintf("ALTER DATABASE %s SET %s = %s", quoted(e.database), name, value)
	case "database user":
		return fmt.Sprintf("ALTER ROLE %s IN DATABASE %s SET %s = %s", quoted(e.role), quoted(e.database), name, value)
	case "command line", "environment variable":
		return fmt.Sprintf("start the server without -c %s=%s", name, e.settings[name].value)
	case "global":
		return fmt.Sprintf("ALTER ROLE ALL SET %s = %s", name, value)
	}
	return fmt.Sprintf("ALTER SYSTEM SET %s = %s", name, value) + reload
}

func quoted(name string) string { return pgx.Identifier{name}.Sanitize() }
