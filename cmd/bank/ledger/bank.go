// Package ledger is a bank in a database of any kind, small enough to be checked to the last cent: accounts, an entry for every change of
// a balance, the log a careful client keeps of what it asked for, and the comparison of that log with the databases. The demo,
// the bank processes and the benchmarks share it.
package ledger

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"slices"

	"github.com/twostep-mq/twostep/cmd/internal/database"
)

// Bank is one bank's database.
type Bank struct {
	*database.Database
	debit, credit, book, openAccount, debited string
}

// New uses a database as a bank's.
func New(db *database.Database) *Bank {
	return &Bank{
		Database:    db,
		debit:       db.SQL("UPDATE account SET balance = balance - ? WHERE id = ? AND balance >= ?"),
		credit:      db.SQL("UPDATE account SET balance = balance + ? WHERE id = ?"),
		book:        db.SQL("INSERT INTO entry (transfer, account, amount) VALUES (?, ?, ?)"),
		openAccount: db.SQL("INSERT INTO account (id, balance) VALUES (?, ?)"),
		debited:     db.SQL("SELECT count(*) FROM entry WHERE transfer = ? AND amount < 0"),
	}
}

// SetUp makes the bank's tables and opens the accounts with their balances, unless there are accounts already. On a
// server one process at a time may do so.
func (b *Bank) SetUp(ctx context.Context, opening map[string]int64) error {
	for _, statement := range schemaOf(b.Kind) {
		if _, err := b.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("ledger: make a bank's tables: %w", err)
		}
	}
	tx, err := b.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("ledger: set up a bank: %w", err)
	}
	defer func() { _ = tx.Rollback() }()
	var accounts int
	if err := tx.QueryRowContext(ctx, "SELECT count(*) FROM account").Scan(&accounts); err != nil {
		return fmt.Errorf("ledger: count accounts: %w", err)
	}
	if accounts > 0 {
		opening = nil
	}
	for _, id := range slices.Sorted(maps.Keys(opening)) {
		if _, err := tx.ExecContext(ctx, b.openAccount, id, opening[id]); err != nil {
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
	// Entries, those of one account in the order of their commits.
	Entries []Entry
}

// Read reads a bank's statement from one snapshot.
func (b *Bank) Read(ctx context.Context) (Statement, error) {
	s := Statement{Balances: map[string]int64{}}
	// PostgreSQL and MySQL give a transaction one snapshot from this level on; SQLite does so anyway, and its driver knows no levels.
	options := &sql.TxOptions{ReadOnly: true}
	if b.Kind != database.SQLite {
		options.Isolation = sql.LevelRepeatableRead
	}
	tx, err := b.BeginTx(ctx, options)
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
