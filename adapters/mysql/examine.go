package mysql

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"

	"github.com/twostep-mq/twostep/broker"
)

const (
	// clockMost is how far the server's clock may be from this process's.
	clockMost = 2 * time.Second
	// transactionMost is how old a transaction may be: it holds gaps of the outbox open, and keeps deleted rows from being cleaned up.
	transactionMost = time.Minute
)

// Examine looks at the database that holds, or shall hold, a set of tables: at the server and its settings, at the tables, at this user's
// rights. It changes nothing. What is in order is in the list, too. Where the server cannot be asked, the list says why and ends there.
func Examine(ctx context.Context, db *sql.DB, set Set, cfg Config) []broker.Finding {
	e := &examination{ctx: ctx, db: db, set: set, cfg: cfg.withDefaults(), old: transactionMost}
	e.run()
	return e.found
}

// examination is one run of Examine.
type examination struct {
	ctx context.Context
	db  *sql.DB
	set Set
	cfg Config
	old time.Duration // a transaction

	user, database string
	vars           settings

	found []broker.Finding
}

func (e *examination) run() {
	if _, err := MigrationsSQL(e.set, e.cfg); err != nil {
		e.add(broker.Finding{Check: "configuration", Level: broker.LevelError, Problem: err.Error(), Fix: "correct what is given to mysql.Examine"})
		return
	}
	if err := e.connect(); err != nil {
		e.add(failed("connection", err))
		return
	}
	e.add(broker.Finding{Check: "connection", Value: fmt.Sprintf("database %s, user %s, table prefix %s", e.database, e.user, e.cfg.Prefix)})
	e.server()
	e.tables()
}

// connect reads what the other checks need.
func (e *examination) connect() (err error) {
	if err := e.ask("SELECT CURRENT_USER(), COALESCE(DATABASE(), '')", nil, &e.user, &e.database); err != nil {
		return err
	}
	e.vars, err = variables(e.ctx, e.db)
	return err
}

// ask reads one row.
func (e *examination) ask(query string, args []any, into ...any) error {
	return e.db.QueryRowContext(e.ctx, query, args...).Scan(into...)
}

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
		f = failed(name, err)
	}
	f.Check = name
	e.add(f)
}

// judge adds a finding of flaws, all of which matter.
func (e *examination) judge(name, value string, level broker.Level, flaws []flaw) {
	f := broker.Finding{Check: name, Value: value}
	if len(flaws) > 0 {
		var problems, fixes []string
		for _, flaw := range flaws {
			problems, fixes = append(problems, flaw.problem), append(fixes, flaw.fix)
		}
		f.Level, f.Problem, f.Fix = level, strings.Join(problems, "; "), strings.Join(fixes, "; ")
	}
	e.add(f)
}

// failed is what is found where the server does not answer.
func failed(check string, err error) broker.Finding {
	problem := strings.Join(strings.Fields(err.Error()), " ")
	return broker.Finding{Check: check, Level: broker.LevelError, Problem: problem, Fix: remedy(err)}
}

// remedy says what helps against an error.
func remedy(err error) string {
	switch {
	case is(err, codeTooMany):
		return "raise max_connections, or bound the services' pools (SetMaxOpenConns)"
	case is(err, codeAccessDenied):
		return "correct user and password in the DSN"
	case is(err, codeUnknownDatabase):
		return "CREATE DATABASE it, or correct the DSN"
	case is(err, codeDatabaseDenied, codeTableDenied):
		return "GRANT SELECT, INSERT, UPDATE, DELETE on the tables of twostep to this user"
	case is(err, codeNoSuchTable):
		return "twostep migrate, or correct the table prefix"
	}
	return "look whether the server runs and the DSN is right"
}
