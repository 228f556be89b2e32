package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/twostep-mq/twostep/cmd/internal/database"
)

// migrateOptions are the flags of `twostep migrate`.
type migrateOptions struct {
	driver, dsn, set, schema, prefix string
	printOnly, status, json          bool
}

// migrationReport is the JSON of migrate and migrate --status.
type migrationReport struct {
	Driver database.Kind `json:"driver"`
	Set    database.Set  `json:"set"`
	// Missing counts the migrations that the database has not.
	Missing    int              `json:"missing"`
	Migrations []migrationShown `json:"migrations"`
}

type migrationShown struct {
	Name string `json:"name"`
	// AppliedAtMS is 0 where the database has not got it.
	AppliedAtMS int64 `json:"applied_at_ms"`
	// SQL is there with --print.
	SQL string `json:"sql,omitempty"`
}

func newMigrateCommand() *cobra.Command {
	var o migrateOptions
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Make or bring up to date the tables in a database",
		Long: `Make or bring up to date the tables in a database. A service's own database needs the set "service" (outbox, barrier,
parked messages); the server migrates its own database by itself. Several may migrate at once.

The DSN holds a password, and other users of the machine can read a command line: give it in TWOSTEP_DSN. It is never printed.

  sqlite    the file; made if it is not there
  postgres  postgres://user:password@host:port/database, or host=… port=… user=… password=… dbname=…; a direct connection, no pooler
  mysql     user:password@tcp(host:port)/database; MariaDB, too`,
		Example: `  twostep migrate --driver sqlite --dsn bank.db
  TWOSTEP_DSN=postgres://bank:secret@db.internal/bank twostep migrate --driver postgres --schema messages
  twostep migrate --driver mysql --print > tables.sql
  twostep migrate --driver sqlite --dsn bank.db --status`,
		Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error { return runMigrate(cmd, o) },
	}
	flags := cmd.Flags()
	flags.StringVar(&o.driver, "driver", "sqlite", "kind of database: sqlite, postgres or mysql (MariaDB, too)")
	flags.StringVar(&o.dsn, "dsn", "", "the database: for sqlite, its file; else better in TWOSTEP_DSN")
	flags.StringVar(&o.set, "for", string(database.Service), "whose tables: service or orchestrator")
	flags.StringVar(&o.schema, "schema", "", "postgres: schema of the tables, made if it is not there (default: the first of the search path)")
	flags.StringVar(&o.prefix, "table-prefix", "", "postgres, mysql: what the names of the tables begin with (default twostep_)")
	flags.BoolVar(&o.printOnly, "print", false, "print the SQL instead of running it")
	flags.BoolVar(&o.status, "status", false, "say which migrations the database has, and change nothing")
	flags.BoolVar(&o.json, "json", false, "print JSON for programs")
	cmd.MarkFlagsMutuallyExclusive("print", "status")
	return cmd
}

// config of the database; the DSN is not needed to print.
func (o migrateOptions) config() (c database.Config, set database.Set, err error) {
	kind, err := database.ParseKind(o.driver)
	if err != nil {
		return c, "", usagef("--driver: %v", err)
	}
	set = database.Set(o.set)
	if set != database.Service && set != database.Orchestrator {
		return c, "", usagef("--for is %q: use service or orchestrator", o.set)
	}
	c = database.Config{Kind: kind, DSN: o.dsn, Schema: o.schema, Prefix: o.prefix, MustExist: o.status}
	if c.DSN == "" {
		c.DSN = os.Getenv(envDSN)
	}
	if err := c.Validate(); err != nil {
		return c, "", usagef("--driver %s: %v", kind, err)
	}
	switch {
	case o.printOnly:
		c.DSN = ""
	case c.DSN == "" && kind == database.SQLite:
		return c, "", usagef("--dsn is missing: name the database's file, as --dsn bank.db")
	case c.DSN == "":
		return c, "", usagef("there is no DSN: set %s (or --dsn); see twostep migrate --help for its form", envDSN)
	}
	return c, set, nil
}

func runMigrate(cmd *cobra.Command, o migrateOptions) error {
	c, set, err := o.config()
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if o.printOnly {
		list, err := database.Migrations(c, set)
		if err != nil {
			return err
		}
		if o.json {
			return printJSON(out, newMigrationReport(c.Kind, set, list, true))
		}
		return printMigrations(out, list)
	}
	place, list, err := migrate(cmd.Context(), c, set, !o.status)
	if err != nil {
		return err
	}
	report := newMigrationReport(c.Kind, set, list, false)
	switch {
	case o.json:
		err = printJSON(out, report)
	case o.status:
		err = report.print(out)
	default:
		_, err = fmt.Fprintf(out, "%s has the tables of set %s (%d migrations)\n", place, set, len(list))
	}
	if err == nil && report.Missing > 0 {
		err = fmt.Errorf("%s lacks migrations of set %s: run %s", place, set, o.command(set))
	}
	return err
}

// command that brings the database up to date; it does not repeat the DSN, but for SQLite's file.
func (o migrateOptions) command(set database.Set) string {
	command := fmt.Sprintf("twostep migrate --driver %s --for %s", o.driver, set)
	if o.driver == string(database.SQLite) && o.dsn != "" {
		command += " --dsn " + o.dsn
	}
	if o.schema != "" {
		command += " --schema " + o.schema
	}
	if o.prefix != "" {
		command += " --table-prefix " + o.prefix
	}
	return command
}

// migrate brings the database up to date, if that is wanted, and tells what it has.
func migrate(ctx context.Context, c database.Config, set database.Set, change bool) (place string, list []database.Migration, err error) {
	db, err := database.Open(ctx, c)
	if err != nil {
		return "", nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if change {
		if err := db.Migrate(ctx, set); err != nil {
			return "", nil, err
		}
	}
	list, err = db.Status(ctx, set)
	return db.Place(), list, err
}

func printMigrations(w io.Writer, list []database.Migration) error {
	for _, m := range list {
		if _, err := fmt.Fprintf(w, "-- %s\n%s\n", m.Name, m.SQL); err != nil {
			return fmt.Errorf("print migrations: %w", err)
		}
	}
	return nil
}

func newMigrationReport(kind database.Kind, set database.Set, list []database.Migration, withSQL bool) migrationReport {
	r := migrationReport{Driver: kind, Set: set, Migrations: []migrationShown{}}
	for _, m := range list {
		shown := migrationShown{Name: m.Name}
		if withSQL {
			shown.SQL = m.SQL
		}
		if !m.AppliedAt.IsZero() {
			shown.AppliedAtMS = m.AppliedAt.UnixMilli()
		} else if !withSQL {
			r.Missing++
		}
		r.Migrations = append(r.Migrations, shown)
	}
	return r
}

func (r migrationReport) print(w io.Writer) error {
	rows := [][]string{}
	for _, m := range r.Migrations {
		applied := "missing"
		if m.AppliedAtMS != 0 {
			applied = time.UnixMilli(m.AppliedAtMS).Local().Format(time.DateTime)
		}
		rows = append(rows, []string{m.Name, applied})
	}
	return printTable(w, []string{"MIGRATION", "APPLIED"}, rows)
}
