package mysql

import (
	"errors"
	"fmt"
	"strings"

	"github.com/twostep-mq/twostep/broker"
)

// aColumn is a table and one of its columns.
type aColumn struct{ table, column string }

// columnsOf lists the tables of a set, besides the one of its migrations, and of each a column that can be written.
func columnsOf(set Set) []aColumn {
	if set == Orchestrator {
		return []aColumn{{"registry", "version"}, {"registry_topic", "name"}, {"registry_subscription", "name"}, {"registry_outbox", "name"}}
	}
	return []aColumn{
		{"outbox", "topic"}, {"outbox_meta", "beat"}, {"outbox_confirmer", "topic"}, {"outbox_topic", "name"}, {"barrier", "outcome"}, {"parked", "state"},
	}
}

// tables examines our own.
func (e *examination) tables() {
	if !e.schemaVersion() {
		return
	}
	e.check("rights", e.rights)
	e.check("table files", e.engines)
	e.check("collation", e.collation)
}

// schemaVersion tells which migrations are missing.
func (e *examination) schemaVersion() (complete bool) {
	f := broker.Finding{Check: "schema version"}
	list, err := Status(e.ctx, e.db, e.set, e.cfg)
	if err != nil {
		f = failed(f.Check, err)
		if is(err, codeTableDenied) {
			f.Fix = fmt.Sprintf("GRANT SELECT ON `%s`.`%s` TO %s", e.database, e.set.versionTable(e.cfg), account(e.user))
		}
		e.add(f)
		return false
	}
	var missing []string
	newest := int64(0)
	for _, m := range list {
		if m.AppliedAt.IsZero() {
			missing = append(missing, m.Name)
		} else {
			newest = max(newest, m.Version)
		}
	}
	f.Value = fmt.Sprintf("%s %d", e.set, newest)
	if len(missing) > 0 {
		f.Level, f.Problem = broker.LevelError, "the database lacks "+strings.Join(missing, ", ")
		f.Fix = fmt.Sprintf("twostep migrate --driver mysql --for %s (its user needs CREATE, ALTER, INDEX and REFERENCES, too)", e.set)
		if e.cfg.Prefix != DefaultPrefix {
			f.Fix += ", --table-prefix " + e.cfg.Prefix
		}
	}
	e.add(f)
	return len(missing) == 0
}

// rights asks for the plan of a statement of each kind on each table, which takes the same rights and does nothing.
func (e *examination) rights() (f broker.Finding, err error) {
	f.Value = "SELECT, INSERT, UPDATE, DELETE on each table"
	var missing, grants []string
	for _, c := range columnsOf(e.set) {
		table, name := e.cfg.Prefix+c.table, "`"+e.cfg.Prefix+c.table+"`"
		var lacks []string
		for _, try := range [][2]string{
			{"SELECT", "SELECT * FROM " + name + " LIMIT 0"},
			{"INSERT", "INSERT INTO " + name + " (" + c.column + ") VALUES (1)"},
			{"UPDATE", "UPDATE " + name + " SET " + c.column + " = 1 WHERE FALSE"},
			{"DELETE", "DELETE FROM " + name + " WHERE FALSE"},
		} {
			if err := e.explain(try[1]); is(err, codeTableDenied, codeColumnDenied) {
				lacks = append(lacks, try[0])
			} else if err != nil {
				return f, fmt.Errorf("%s on %s: %w", try[0], name, err)
			}
		}
		if len(lacks) > 0 {
			right := strings.Join(lacks, ", ")
			missing = append(missing, right+" on "+table)
			grants = append(grants, fmt.Sprintf("GRANT %s ON `%s`.%s TO %s", right, e.database, name, account(e.user)))
		}
	}
	if len(missing) > 0 {
		f.Level, f.Value, f.Problem = broker.LevelError, "missing: "+strings.Join(missing, "; "), "what needs these rights fails"
		f.Fix = strings.Join(grants, "; ")
	}
	return f, nil
}

func (e *examination) explain(statement string) (err error) {
	rows, err := e.db.QueryContext(e.ctx, "EXPLAIN "+statement)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() { // the plan does not matter
	}
	return rows.Err()
}

// engines: a table that is not InnoDB's is in no transaction. Servers make one where InnoDB is switched off and the SQL mode lets them.
func (e *examination) engines() (broker.Finding, error) {
	var others int
	var first string
	err := e.ask("SELECT COUNT(*), COALESCE(MIN(CONCAT(table_name, ' (', COALESCE(engine, 'broken'), ')')), '') FROM information_schema.TABLES "+
		"WHERE table_schema = DATABASE() AND LEFT(table_name, ?) = ? AND NOT COALESCE(engine, '') = 'InnoDB'",
		[]any{len(e.cfg.Prefix), e.cfg.Prefix}, &others, &first)
	f := broker.Finding{Value: "InnoDB"}
	if others > 0 {
		f.Level, f.Value = broker.LevelError, fmt.Sprintf("%d are not InnoDB's: %s", others, first)
		f.Problem = "what is written there is in no transaction"
		f.Fix = "ALTER TABLE … ENGINE = InnoDB, each"
	}
	return f, err
}

// collation: keys are bytes. Text columns of ours are headers, and numbers' names.
func (e *examination) collation() (broker.Finding, error) {
	var texts int
	var first string
	err := e.ask("SELECT COUNT(*), COALESCE(MIN(CONCAT(table_name, '.', column_name, ' (', COALESCE(collation_name, data_type), ')')), '') "+
		"FROM information_schema.COLUMNS WHERE table_schema = DATABASE() AND LEFT(table_name, ?) = ? AND column_name <> 'headers' AND collation_name IS NOT NULL",
		[]any{len(e.cfg.Prefix), e.cfg.Prefix}, &texts, &first)
	f := broker.Finding{Value: "keys are compared byte by byte"}
	if texts > 0 {
		f.Level, f.Value = broker.LevelError, fmt.Sprintf("%d columns are text: %s", texts, first)
		f.Problem = "ids that differ in case, accents or spaces at the end may be taken for one, and messages skipped"
		f.Fix = "make them VARBINARY again, as `twostep migrate --print` says"
	}
	return f, err
}
