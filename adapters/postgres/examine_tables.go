package postgres

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/twostep-mq/twostep/broker"
)

// tablesOf lists the tables of a set, besides the one of its migrations.
func tablesOf(set Set) []string {
	if set == Orchestrator {
		return []string{"registry", "registry_topic", "registry_subscription", "registry_outbox"}
	}
	return []string{"outbox", "outbox_meta", "outbox_confirmer", "outbox_topic", "barrier", "parked"}
}

// tables examines our own.
func (e *examination) tables() {
	if !e.schemaThere() {
		return
	}
	if !e.schemaVersion() {
		return
	}
	e.check("rights", e.rights)
	e.check("collation", e.collation)
	e.check("table files", e.logged)
	if e.set == Service {
		e.check("row numbers", e.rowNumbers)
		e.check("autovacuum", e.autovacuum)
	}
}

// schemaThere: the schema is there, and this role may look into it.
func (e *examination) schemaThere() bool {
	var there, usage bool
	err := e.ask(`SELECT to_regnamespace(quote_ident($1)) IS NOT NULL, coalesce(has_schema_privilege(to_regnamespace(quote_ident($1))::oid, 'USAGE'), false)`,
		[]any{e.schema}, &there, &usage)
	f := broker.Finding{Check: "schema", Level: broker.LevelError, Value: e.schema}
	switch {
	case err != nil:
		f.Problem, f.Fix = (&oneLineError{err}).Error(), cmp.Or(remedy(err), "repeat it")
	case e.schema == "":
		f.Problem, f.Fix = "the search path names no schema that is there", "ALTER ROLE "+quoted(e.role)+" SET search_path = public, or configure a schema"
	case !there:
		f.Problem, f.Fix = "there is no such schema", "twostep migrate, which makes it, or correct the schema's name"
	case !usage:
		f.Problem, f.Fix = "this role may not use it", fmt.Sprintf("GRANT USAGE ON SCHEMA %s TO %s", quoted(e.schema), quoted(e.role))
	default:
		return true
	}
	e.add(f)
	return false
}

// schemaVersion tells which migrations are missing.
func (e *examination) schemaVersion() (complete bool) {
	f := broker.Finding{Check: "schema version"}
	applied, err := appliedMigrations(e.ctx, e.db, e.set, e.names)
	if err != nil {
		f.Level, f.Problem = broker.LevelError, (&oneLineError{err}).Error()
		f.Fix = fmt.Sprintf("GRANT SELECT ON %s TO %s", e.names.table(e.set.versionTable()), quoted(e.role))
		e.add(f)
		return false
	}
	var missing []string
	newest, known := int64(0), int64(0)
	for _, m := range e.migrations {
		known = max(known, m.Version)
		if applied[m.Version].IsZero() {
			missing = append(missing, m.Name)
		}
	}
	for version := range applied {
		newest = max(newest, version)
	}
	f.Value = fmt.Sprintf("%s %d", e.set, newest)
	switch {
	case len(missing) > 0:
		f.Level, f.Problem = broker.LevelError, "missing: "+strings.Join(missing, ", ")
		f.Fix = e.migrate()
	case newest > known:
		f.Level, f.Problem = broker.LevelNote, fmt.Sprintf("a newer version of twostep has migrated it (this one knows %d): that is as it should be while both run", known)
	}
	e.add(f)
	return len(missing) == 0
}

// migrate says how the tables are brought up to date, and by whom.
func (e *examination) migrate() string {
	fix := fmt.Sprintf("twostep migrate --driver postgres --for %s", e.set)
	var may bool
	if err := e.ask(`SELECT has_schema_privilege($1, 'CREATE')`, []any{e.schema}, &may); err == nil && !may {
		fix += fmt.Sprintf(", as another role or after GRANT CREATE ON SCHEMA %s TO %s", quoted(e.schema), quoted(e.role))
	}
	return fix
}

// rights: this role may do with the tables what twostep does.
func (e *examination) rights() (f broker.Finding, err error) {
	var grants []string
	for _, table := range tablesOf(e.set) {
		name := e.names.table(table)
		var missing string
		err := e.ask(`SELECT coalesce(string_agg(p, ', '), '') FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS p
WHERE NOT has_table_privilege($1::text::regclass, p)`, []any{name}, &missing)
		if err != nil {
			return f, err
		}
		if missing != "" {
			grants = append(grants, fmt.Sprintf("GRANT %s ON %s TO %s", missing, name, quoted(e.role)))
		}
	}
	if e.set == Service {
		for sequence, right := range map[string]string{"outbox_seq": "USAGE, SELECT", "parked_seq_seq": "USAGE"} {
			name := e.names.table(sequence)
			var there, may bool
			err := e.ask(`SELECT to_regclass($1::text) IS NOT NULL, coalesce(has_sequence_privilege(to_regclass($1::text)::oid, 'USAGE')
  AND ($2::text = 'USAGE' OR has_sequence_privilege(to_regclass($1::text)::oid, 'SELECT')), false)`, []any{name, right}, &there, &may)
			if err != nil {
				return f, err
			}
			if there && !may {
				grants = append(grants, fmt.Sprintf("GRANT %s ON SEQUENCE %s TO %s", right, name, quoted(e.role)))
			}
		}
	}
	f.Value = "all that are needed"
	if len(grants) > 0 {
		f.Level, f.Value = broker.LevelError, "some are missing"
		f.Problem, f.Fix = "this role cannot do all that twostep does", strings.Join(grants, "; ")
	}
	return f, nil
}

// collation: keys compare byte for byte, whatever the database's own collation. Reasons are prose, for reading.
func (e *examination) collation() (f broker.Finding, err error) {
	var tables []string
	for _, table := range tablesOf(e.set) {
		tables = append(tables, e.names.table(table))
	}
	var wrong string
	err = e.ask(`SELECT coalesce(string_agg(a.attrelid::regclass || '.' || quote_ident(a.attname) || ' ' || quote_ident(c.collname), ', '), '')
FROM pg_attribute a JOIN pg_collation c ON c.oid = a.attcollation
WHERE a.attrelid = ANY($1::text[]::regclass[]) AND a.attnum > 0 AND NOT a.attisdropped AND a.attname <> 'reason' AND c.collname NOT IN ('C', 'POSIX')`,
		[]any{tables}, &wrong)
	f.Value = `"C"`
	if wrong != "" {
		f.Level, f.Value = broker.LevelError, wrong
		f.Problem, f.Fix = "names that differ may count as the same, and messages are skipped", `ALTER TABLE … ALTER COLUMN … TYPE text COLLATE "C", for each of them`
	}
	return f, err
}

// logged: the tables survive a crash.
func (e *examination) logged() (f broker.Finding, err error) {
	var fixes []string
	for _, table := range tablesOf(e.set) {
		name := e.names.table(table)
		var persistence string
		if err := e.ask(`SELECT relpersistence::text FROM pg_class WHERE oid = $1::text::regclass`, []any{name}, &persistence); err != nil {
			return f, err
		}
		if persistence != "p" {
			fixes = append(fixes, "ALTER TABLE "+name+" SET LOGGED")
		}
	}
	f.Value = "logged"
	if len(fixes) > 0 {
		f.Level, f.Value = broker.LevelError, "unlogged"
		f.Problem, f.Fix = "the server empties unlogged tables after a crash", strings.Join(fixes, "; ")
	}
	return f, nil
}

// rowNumbers: they come in the order they are asked for, and each after its transaction's id.
func (e *examination) rowNumbers() (f broker.Finding, err error) {
	var (
		cache, increment, last, highest int64
		cycles                          bool
		byDefault                       string
		table, sequence                 = e.names.table("outbox"), e.names.table("outbox_seq")
	)
	err = e.ask(`SELECT seqcache, seqincrement, seqcycle FROM pg_sequence WHERE seqrelid = $1::text::regclass`, []any{sequence}, &cache, &increment, &cycles)
	if err == nil {
		err = e.ask(`SELECT coalesce(pg_get_expr(d.adbin, d.adrelid), '') FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = $1::text::regclass AND a.attname = 'seq'`, []any{table}, &byDefault)
	}
	if err == nil {
		err = e.ask(e.names.sql(`SELECT s.last_value * s.is_called::int, coalesce((SELECT max(seq) FROM twostep.outbox), 0) FROM twostep.outbox_seq s`), nil, &last, &highest)
	}
	if err != nil {
		return f, err
	}
	f.Value = fmt.Sprintf("sequence cache %d, increment %d, at %d", cache, increment, last)
	switch {
	case cache != 1 || increment != 1 || cycles:
		f.Level, f.Problem = broker.LevelError, "numbers come in another order than they are asked for, and rows are skipped"
		f.Fix = "ALTER SEQUENCE " + sequence + " CACHE 1 INCREMENT 1 NO CYCLE"
	case !strings.Contains(byDefault, "pg_current_xact_id"):
		f.Level, f.Value, f.Problem = broker.LevelError, "the default of seq is "+byDefault, "a number may be taken before its transaction has an id, and its row is skipped"
		f.Fix = fmt.Sprintf("ALTER TABLE %s ALTER seq SET DEFAULT (CASE WHEN pg_current_xact_id() IS NOT NULL THEN nextval('%s') END)", table, sequence)
	case highest > last:
		f.Level, f.Problem = broker.LevelError, fmt.Sprintf("row %d is there already: inserts will fail", highest)
		f.Fix = fmt.Sprintf("SELECT setval('%s', %d)", sequence, highest)
	}
	return f, nil
}

// autovacuum keeps the outbox small, which is emptied as fast as it is filled.
func (e *examination) autovacuum() (f broker.Finding, err error) {
	var options string
	table := e.names.table("outbox")
	if err := e.ask(`SELECT coalesce(array_to_string(reloptions, ', '), '') FROM pg_class WHERE oid = $1::text::regclass`, []any{table}, &options); err != nil {
		return f, err
	}
	const problem = "deleted rows stay, and reading the outbox becomes slower and slower"
	f.Value = "on"
	switch {
	case e.settings["autovacuum"].value != "on":
		f.Level, f.Value, f.Problem, f.Fix = broker.LevelWarning, "off", problem, e.change("autovacuum", "on")
	case e.settings["track_counts"].value != "on":
		f.Level, f.Value, f.Problem, f.Fix = broker.LevelWarning, "track_counts = off", problem, e.change("track_counts", "on")
	case strings.Contains(options, "autovacuum_enabled=false") || strings.Contains(options, "autovacuum_enabled=off") || strings.Contains(options, "autovacuum_enabled=0"):
		f.Level, f.Value, f.Problem = broker.LevelWarning, "off for "+table, problem
		f.Fix = "ALTER TABLE " + table + " RESET (autovacuum_enabled)"
	}
	return f, nil
}
