package main

import (
	"context"
	"fmt"
	"time"

	"github.com/twostep-mq/twostep/outbox"
)

// benchPublish measures the debit with its message against the debit alone. No relay runs; the rows are thrown away after each
// round.
func benchPublish(ctx context.Context, r *benchRig, o benchOptions) (map[string]benchFigures, error) {
	topic := benchTopic("bench.publish", o.keyed, outbox.DeliveryConfirmed)
	box, err := outbox.New(ctx, r.store, outbox.Config{})
	if err != nil {
		return nil, err
	}
	senders := benchSenders(r, box, topic)
	return eachForm(o, func(form string) (benchFigures, error) {
		measure := func(send func(context.Context, int) error) benchSide {
			return func(ctx context.Context) (benchRound, error) {
				before, start := r.counters(), time.Now()
				waits, err := clients(ctx, o, send)
				round := benchRound{transfers: o.transfers, elapsed: time.Since(start), waits: waits}
				r.since(before, &round)
				round.batches = round.commits
				r.books.debited(o.transfers)
				return round, err
			}
		}
		ours, naive := measure(senders[form]), measure(func(ctx context.Context, n int) error {
			return r.a.bare(ctx, r.a.debit, benchTransferOf(n))
		})
		return runPairs(ctx, o, func(ctx context.Context) (benchRound, error) {
			round, err := ours(ctx)
			if err == nil {
				err = r.throwAway(ctx, o.transfers)
			}
			return round, err
		}, naive)
	})
}

// throwAway empties the outbox, in which exactly so many rows have to be.
func (r *benchRig) throwAway(ctx context.Context, rows int) error {
	res, err := r.a.ExecContext(ctx, `DELETE FROM twostep_outbox`)
	if err != nil {
		return fmt.Errorf("empty the outbox: %w", err)
	}
	if n, err := res.RowsAffected(); err != nil || n != int64(rows) {
		return fmt.Errorf("the outbox had %d rows instead of %d (%w)", n, rows, err)
	}
	return nil
}
