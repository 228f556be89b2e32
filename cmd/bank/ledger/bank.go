// Package ledger is a bank in a SQLite database, small enough to be checked to the last cent: accounts, an entry for every change of
// a balance, the log a careful client keeps of what it asked for, and the comparison of that log with the databases. The demo,
// the bank processes and the benchmarks share it.
package ledger

import (
	"context"
	"database/sql"
	_ "embed"
	"fmt"
	"maps"
	"slices"
)

//go:embed schema.sql
var schema string

// SetUp makes the bank's tables and opens the accounts with their balances, unless there are accounts already.
func SetUp(ctx context.Context, db *sql.DB, opening map[string]int64) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("ledger: set up a bank: %w", err)
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(ctx, schema); err != nil {
		return fmt.Errorf("ledger: make a bank's tables: %w", err)
	}
	var accounts int
	if err := tx.QueryRowContext(ctx, "SELECT count(*) FROM account").Scan(&accounts); err != nil {
		return fmt.Errorf("ledger: count accounts: %w", err)
	}
	if accounts > 0 {
		opening = nil
	}
	for _, id := range slices.Sorted(maps.Keys(opening)) {
		if _, err := tx.ExecContext(ctx, "INSERT INTO account (id, balance) VALUES (?, ?)", id, opening[id]); err != nil {
			return fmt.Errorf("ledger: open account %s: %w", id, err)
		}
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("ledger: set up a bank: %w", err)
	}
	return nil
}

// Entry is one change of a balance: negative for a debit, positive for a credit.
type Entry struct {
	Seq      int64
	Transfer string
	Account  string
	Amount   int64
}

// Statement is all that a bank knows at one moment.
type Statement struct {
	Balances map[string]int64
	// Entries in the order of their commits.
	Entries []Entry
}

// Read reads a bank's statement from one snapshot.
func Read(ctx context.Context, db *sql.DB) (Statement, error) {
	s := Statement{Balances: map[string]int64{}}
	tx, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return s, fmt.Errorf("ledger: read a bank: %w", err)
	}
	defer func() { _ = tx.Rollback() }()
	err = each(ctx, tx, "SELECT id, balance FROM account", func(rows *sql.Rows) error {
		var id string
		var balance int64
		err := rows.Scan(&id, &balance)
		s.Balances[id] = balance
		return err
	})
	if err != nil {
		return s, fmt.Errorf("ledger: read accounts: %w", err)
	}
	err = each(ctx, tx, "SELECT id, transfer, account, amount FROM entry ORDER BY id", func(rows *sql.Rows) error {
		var e Entry
		err := rows.Scan(&e.Seq, &e.Transfer, &e.Account, &e.Amount)
		s.Entries = append(s.Entries, e)
		return err
	})
	if err != nil {
		return s, fmt.Errorf("ledger: read entries: %w", err)
	}
	return s, nil
}

func each(ctx context.Context, tx *sql.Tx, query string, scan func(*sql.Rows) error) error {
	rows, err := tx.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// Sum of all balances.
func (s Statement) Sum() int64 {
	var sum int64
	for _, b := range s.Balances {
		sum += b
	}
	return sum
}
