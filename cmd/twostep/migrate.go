package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/twostep-mq/twostep/adapters/sqlite"
)

func newMigrateCommand() *cobra.Command {
	var (
		driver, dsn, set    string
		printOnly, statusOf bool
	)
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Make or bring up to date the tables in a database",
		Long: `Make or bring up to date the tables in a database. A service's own database needs the set "service" (outbox, barrier,
parked messages); the server migrates its own database by itself. Several may migrate at once.`,
		Example: `  twostep migrate --driver sqlite --dsn bank.db
  twostep migrate --driver sqlite --print > tables.sql
  twostep migrate --driver sqlite --dsn bank.db --status`,
		Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if driver != "sqlite" {
				return usagef("--driver is %q: use sqlite", driver)
			}
			tables := sqlite.Set(set)
			if tables != sqlite.Service && tables != sqlite.Orchestrator {
				return usagef("--for is %q: use service or orchestrator", set)
			}
			if printOnly {
				return printMigrations(cmd.OutOrStdout(), tables)
			}
			if dsn == "" {
				return usagef("--dsn is missing: name the database's file, as --dsn bank.db")
			}
			if statusOf {
				return printMigrationStatus(cmd, dsn, tables)
			}
			return migrate(cmd, dsn, tables)
		},
	}
	cmd.Flags().StringVar(&driver, "driver", "sqlite", "kind of database: sqlite")
	cmd.Flags().StringVar(&dsn, "dsn", "", "the database: for sqlite, its file; made if it is not there")
	cmd.Flags().StringVar(&set, "for", string(sqlite.Service), "whose tables: service or orchestrator")
	cmd.Flags().BoolVar(&printOnly, "print", false, "print the SQL instead of running it")
	cmd.Flags().BoolVar(&statusOf, "status", false, "say which migrations the database has, and change nothing")
	cmd.MarkFlagsMutuallyExclusive("print", "status")
	return cmd
}

func printMigrations(w io.Writer, set sqlite.Set) error {
	list, err := sqlite.MigrationsSQL(set)
	if err != nil {
		return err
	}
	for _, m := range list {
		if _, err := fmt.Fprintf(w, "-- %s\n%s\n", m.Name, m.SQL); err != nil {
			return fmt.Errorf("print migrations: %w", err)
		}
	}
	return nil
}

func migrate(cmd *cobra.Command, path string, set sqlite.Set) error {
	db, err := sqlite.Open(path)
	if err != nil {
		return err
	}
	err = sqlite.Migrate(cmd.Context(), db, set)
	var list []sqlite.Migration
	if err == nil {
		list, err = sqlite.Status(cmd.Context(), db, set)
	}
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s has the tables of set %s (%d migrations)\n", path, set, len(list))
	return err
}

func printMigrationStatus(cmd *cobra.Command, path string, set sqlite.Set) error {
	db, err := sqlite.Open(path, sqlite.MustExist())
	if err != nil {
		return err
	}
	rows, missing, err := migrationRows(cmd.Context(), db, set)
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	if err := printTable(cmd.OutOrStdout(), []string{"MIGRATION", "APPLIED"}, rows); err != nil {
		return err
	}
	if missing > 0 {
		return fmt.Errorf("%s lacks %d migrations of set %s: run twostep migrate --driver sqlite --dsn %s --for %s", path, missing, set, path, set)
	}
	return nil
}

func migrationRows(ctx context.Context, db *sql.DB, set sqlite.Set) (rows [][]string, missing int, err error) {
	list, err := sqlite.Status(ctx, db, set)
	if err != nil {
		return nil, 0, err
	}
	for _, m := range list {
		applied := "missing"
		if !m.AppliedAt.IsZero() {
			applied = m.AppliedAt.Local().Format(time.DateTime)
		} else {
			missing++
		}
		rows = append(rows, []string{m.Name, applied})
	}
	return rows, missing, nil
}
