package ledger

import (
	"context"
	"errors"
	"fmt"

	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

// Transfer moves money from an account of the sending bank to one of the receiving bank.
type Transfer struct {
	// ID names the transfer everywhere; it is also its gid.
	ID   string `json:"id"`
	From string `json:"from"`
	To   string `json:"to"`
	// Amount in cents, above 0.
	Amount int64 `json:"amount"`
}

var (
	// ErrRefused: the account does not hold that much.
	ErrRefused = errors.New("ledger: not enough money")
	// ErrNoAccount: the receiving bank does not know the account.
	ErrNoAccount = errors.New("ledger: no such account")
)

// TransIn carries transfers to the receiving bank, in the order of the accounts that get the money. Publishing a transfer twice
// is refused by its gid.
var TransIn = topics.New(topics.Config[Transfer]{
	Name: "bank.trans-in",
	Key:  func(t Transfer) string { return t.To },
	GID:  func(t Transfer) string { return t.ID },
})

// Debit takes the money from t.From; ErrRefused if there is not enough, and then nothing was changed.
func (b *Bank) Debit(ctx context.Context, tx outbox.Execer, t Transfer) error {
	res, err := tx.ExecContext(ctx, b.debit, t.Amount, t.From, t.Amount)
	if err != nil {
		return fmt.Errorf("ledger: debit %s: %w", t.From, err)
	}
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		return errors.Join(fmt.Errorf("%w: transfer %s of %d from %s", ErrRefused, t.ID, t.Amount, t.From), err)
	}
	return b.enter(ctx, tx, t.ID, t.From, -t.Amount)
}

// Credit gives the money to t.To; ErrNoAccount if there is no such account.
func (b *Bank) Credit(ctx context.Context, tx outbox.Execer, t Transfer) error {
	res, err := tx.ExecContext(ctx, b.credit, t.Amount, t.To)
	if err != nil {
		return fmt.Errorf("ledger: credit %s: %w", t.To, err)
	}
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		return errors.Join(fmt.Errorf("%w: transfer %s to %s", ErrNoAccount, t.ID, t.To), err)
	}
	return b.enter(ctx, tx, t.ID, t.To, t.Amount)
}

func (b *Bank) enter(ctx context.Context, tx outbox.Execer, transfer, account string, amount int64) error {
	_, err := tx.ExecContext(ctx, b.book, transfer, account, amount)
	if err != nil {
		return fmt.Errorf("ledger: book %s: %w", transfer, err)
	}
	return nil
}

// Debited tells whether a transfer's debit has committed: for a sender that lost the answer to its COMMIT.
func (b *Bank) Debited(ctx context.Context, transfer string) (bool, error) {
	var n int
	if err := b.QueryRowContext(ctx, b.debited, transfer).Scan(&n); err != nil {
		return false, fmt.Errorf("ledger: look for transfer %s: %w", transfer, err)
	}
	return n > 0, nil
}
