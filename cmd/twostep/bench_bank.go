package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/twostep-mq/twostep/cmd/internal/database"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

const (
	benchAccounts = 1000
	// benchBalance is what each account has at first: enough for any number of transfers.
	benchBalance = 1_000_000_000
)

// benchTransferred is the message of a transfer.
type benchTransferred struct {
	Number int   `json:"number"`
	From   int   `json:"from"`
	To     int   `json:"to"`
	Amount int64 `json:"amount"`
}

// benchTransferOf is the n-th transfer of a run: the same ones in every run and on both sides.
func benchTransferOf(n int) benchTransferred {
	// Two multipliers without common factors with the number of accounts spread both ends over all of them.
	return benchTransferred{Number: n, From: n * 7 % benchAccounts, To: n*13%benchAccounts + 1, Amount: int64(n%100) + 1}
}

func benchTopic(name string, keyed bool, delivery outbox.Delivery) *topics.Topic[benchTransferred] {
	cfg := topics.Config[benchTransferred]{Name: name, Delivery: delivery}
	if keyed {
		cfg.Key = func(t benchTransferred) string { return fmt.Sprint(t.To) }
	}
	return topics.New(cfg)
}

// benchBank is one bank with its database.
type benchBank struct {
	*database.Database
	name                            string
	debitStatement, creditStatement string
}

// openBenchBank makes a bank in an empty database.
func openBenchBank(ctx context.Context, c database.Config, name string) (bank *benchBank, err error) {
	db, err := database.Open(ctx, c)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("make bank %s: %w", name, err), db.Close())
		}
	}()
	b := &benchBank{
		Database: db, name: name,
		debitStatement:  db.SQL(`UPDATE account SET balance = balance - ? WHERE id = ? AND balance >= ?`),
		creditStatement: db.SQL(`UPDATE account SET balance = balance + ? WHERE id = ?`),
	}
	if err := db.Migrate(ctx, database.Service); err != nil {
		return nil, err
	}
	if _, err = db.ExecContext(ctx, `CREATE TABLE account (id INTEGER PRIMARY KEY, balance BIGINT NOT NULL CHECK (balance >= 0))`); err != nil {
		return nil, err
	}
	rows := strings.Repeat("(?, ?), ", benchAccounts) + "(?, ?)"
	var values []any
	for id := range benchAccounts + 1 {
		values = append(values, id, int64(benchBalance))
	}
	_, err = db.ExecContext(ctx, db.SQL(`INSERT INTO account (id, balance) VALUES `+rows), values...)
	return b, err
}

// debit and credit are the business: both sides run these very statements.
func (b *benchBank) debit(ctx context.Context, tx outbox.Execer, t benchTransferred) error {
	return changeBalance(ctx, tx, t.From, b.debitStatement, t.Amount, t.From, t.Amount)
}

func (b *benchBank) credit(ctx context.Context, tx outbox.Execer, t benchTransferred) error {
	return changeBalance(ctx, tx, t.To, b.creditStatement, t.Amount, t.To)
}

func changeBalance(ctx context.Context, tx outbox.Execer, account int, statement string, args ...any) error {
	res, err := tx.ExecContext(ctx, statement, args...)
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	if err == nil && n != 1 {
		err = fmt.Errorf("account %d: no such account, or not enough money", account)
	}
	return err
}

// bare commits one change alone.
func (b *benchBank) bare(ctx context.Context, change func(context.Context, outbox.Execer, benchTransferred) error, t benchTransferred) error {
	tx, err := b.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if err := change(ctx, tx, t); err != nil {
		return err
	}
	return tx.Commit()
}

// benchBooks are the balances as they have to be, kept beside the databases.
type benchBooks struct {
	a, b [benchAccounts + 1]int64 // changes by account
}

// debited and credited note that all transfers of a run were made on that side.
func (k *benchBooks) debited(transfers int) {
	for n := range transfers {
		t := benchTransferOf(n)
		k.a[t.From] -= t.Amount
	}
}

func (k *benchBooks) credited(transfers int) {
	for n := range transfers {
		t := benchTransferOf(n)
		k.b[t.To] += t.Amount
	}
}

// benchMoney is what was counted at the end.
type benchMoney struct {
	Before int64 `json:"before"`
	After  int64 `json:"after"`
	// Expected differs from Before where a suite only debits.
	Expected int64 `json:"expected"`
	// Wrong counts accounts whose balance is not what the transfers make it, WrongAccount names one.
	Wrong        int    `json:"wrong_accounts"`
	WrongAccount string `json:"wrong_account,omitempty"`
}

func (m benchMoney) verdict() error {
	if m.After == m.Expected && m.Wrong == 0 {
		return nil
	}
	return fmt.Errorf("the money does not add up: %d before, %d expected, %d after; %d accounts are wrong, first %s", m.Before, m.Expected, m.After, m.Wrong, m.WrongAccount)
}

// countMoney compares every account of both banks with the books.
func countMoney(ctx context.Context, a, b *benchBank, books *benchBooks) (benchMoney, error) {
	var m benchMoney
	for _, side := range []struct {
		bank    *benchBank
		changes *[benchAccounts + 1]int64
	}{{a, &books.a}, {b, &books.b}} {
		rows, err := side.bank.QueryContext(ctx, `SELECT id, balance FROM account ORDER BY id`)
		if err != nil {
			return m, fmt.Errorf("count the money of bank %s: %w", side.bank.name, err)
		}
		defer func() { _ = rows.Close() }()
		seen := 0
		for ; rows.Next(); seen++ {
			var id int
			var balance int64
			if err := rows.Scan(&id, &balance); err != nil {
				return m, fmt.Errorf("count the money of bank %s: %w", side.bank.name, err)
			}
			m.Before += benchBalance
			m.Expected += benchBalance + side.changes[id]
			m.After += balance
			if balance != benchBalance+side.changes[id] {
				m.note(fmt.Sprintf("%s/%d: %d instead of %d", side.bank.name, id, balance, benchBalance+side.changes[id]))
			}
		}
		if err := rows.Err(); err != nil {
			return m, fmt.Errorf("count the money of bank %s: %w", side.bank.name, err)
		}
		if seen != benchAccounts+1 {
			m.note(fmt.Sprintf("%s has %d accounts instead of %d", side.bank.name, seen, benchAccounts+1))
		}
	}
	return m, nil
}

func (m *benchMoney) note(wrong string) {
	if m.Wrong++; m.WrongAccount == "" {
		m.WrongAccount = wrong
	}
}
