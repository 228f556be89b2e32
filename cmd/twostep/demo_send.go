package main

import (
	"context"
	"errors"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/twostep-mq/twostep/cmd/bank/ledger"
	"github.com/twostep-mq/twostep/cmd/internal/database"
	"github.com/twostep-mq/twostep/outbox"
)

const (
	// demoSenders work at the same time.
	demoSenders = 16
	// ownPerMille of the transfers are made in the sender's own *sql.Tx, the others by Transact.
	ownPerMille = 250
	// rollBackPerMille are rolled back after Publish.
	rollBackPerMille = 30
)

// errRolledBack: the sender changed his mind.
var errRolledBack = errors.New("rolled back by the sender")

// send asks for every transfer of the plan that has no known result.
func (r *demoRun) send() error {
	known, err := r.settleUnknown()
	if err != nil {
		return err
	}
	if r.asked.Load() >= r.half() {
		close(r.halfway) // a former process was stopped behind it
	}
	var next atomic.Int64
	senders, ctx := errgroup.WithContext(r.ctx)
	for range demoSenders {
		senders.Go(func() error {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= r.plan.Transfers {
					return nil
				}
				t := r.plan.Transfer(i)
				if result, asked := known[t.ID]; result == "" {
					if err := r.transfer(ctx, t, asked); err != nil {
						return err
					}
				}
			}
			return ctx.Err()
		})
	}
	return senders.Wait()
}

// half of all transfers, rounded up.
func (r *demoRun) half() int64 { return (int64(r.plan.Transfers) + 1) / 2 }

// settleUnknown finds out what became of transfers that were asked for when a former process ended: the database knows. known has
// all that were ever asked for, with an empty result where there is no trace of them: those are asked for again.
func (r *demoRun) settleUnknown() (known map[string]ledger.Event, err error) {
	statement, err := r.a.Read(r.ctx)
	if err != nil {
		return nil, err
	}
	debited := map[string]bool{}
	for _, e := range statement.Entries {
		debited[e.Transfer] = true
	}
	known = map[string]ledger.Event{}
	var found []ledger.Record
	for _, a := range r.history.Asked {
		known[a.ID] = a.Result
		switch {
		case a.Result == "" && debited[a.ID]:
			known[a.ID] = ledger.EventCommitted
			found = append(found, ledger.Record{Event: ledger.EventCommitted, ID: a.ID})
		case a.Result == ledger.EventRefused || a.Result == ledger.EventRolledBack:
			r.ended.Add(1)
		}
	}
	return known, r.log.Write(found...)
}

// transfer makes one transfer. It stands in the log, on the disk, before it is tried.
func (r *demoRun) transfer(ctx context.Context, t ledger.Transfer, asked bool) error {
	if !asked {
		if err := r.log.Write(ledger.Record{Event: ledger.EventAsked, Transfer: &t}); err != nil {
			return err
		}
		if r.asked.Add(1) == r.half() {
			close(r.halfway)
		}
	}
	// Once tried, it is brought to its end whatever becomes of the run.
	ctx = context.WithoutCancel(ctx)
	result, err := r.bringToAnEnd(ctx, t)
	if err != nil {
		return err
	}
	if result != ledger.EventCommitted {
		r.ended.Add(1)
	}
	return r.log.Note(ledger.Record{Event: result, ID: t.ID})
}

// maxTries of one transfer, where the database refuses in between.
const maxTries = 20

// bringToAnEnd tries a transfer until its result is known. An error of the database leaves that open: the answer to a COMMIT may have
// been lost. So the database is asked, when it answers again, before the next try.
func (r *demoRun) bringToAnEnd(ctx context.Context, t ledger.Transfer) (ledger.Event, error) {
	for try := 1; ; try++ {
		err := r.try(ctx, t)
		switch {
		case err == nil, errors.Is(err, outbox.ErrDuplicate): // its gid was published: by the try before
			return ledger.EventCommitted, nil
		case errors.Is(err, errRolledBack):
			return ledger.EventRolledBack, nil
		case errors.Is(err, ledger.ErrRefused) && try == 1:
			return ledger.EventRefused, nil
		case r.a.Kind == database.SQLite:
			return "", err
		}
		// After an unknown try also a refusal says little: the try itself may have taken the money.
		var debited bool
		asked := throughOutage(ctx, func() (err error) { debited, err = r.a.Debited(ctx, t.ID); return err }, r.a.Kind)
		switch {
		case asked != nil:
			return "", errors.Join(err, asked)
		case debited:
			return ledger.EventCommitted, nil
		case errors.Is(err, ledger.ErrRefused):
			return ledger.EventRefused, nil
		case try == maxTries:
			return "", err
		}
	}
}

// try tries a transfer once.
func (r *demoRun) try(ctx context.Context, t ledger.Transfer) error {
	if r.plan.Chance("own transaction", t.ID, ownPerMille) {
		return r.inOwnTransaction(ctx, t)
	}
	return r.box.Transact(ctx, func(tx outbox.Tx) error { return r.debit(ctx, tx, t) })
}

// inOwnTransaction is the way of a service that manages its transactions itself.
func (r *demoRun) inOwnTransaction(ctx context.Context, t ledger.Transfer) error {
	tx, err := r.a.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if err := r.debit(ctx, tx, t); err != nil {
		return err
	}
	return tx.Commit()
}

// debit is bank A's business: the money and the message, or neither.
func (r *demoRun) debit(ctx context.Context, tx outbox.Transaction, t ledger.Transfer) error {
	if err := r.a.Debit(ctx, tx, t); err != nil {
		return err
	}
	if _, err := r.box.Publish(ctx, tx, ledger.TransIn.Message(t)); err != nil {
		return err
	}
	if r.plan.Chance("roll back", t.ID, rollBackPerMille) {
		return errRolledBack
	}
	return nil
}
