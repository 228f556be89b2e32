package topics

import (
	"context"
	"errors"
	"fmt"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/orchestrator/txn"
)

// errBegin: the transaction did not even begin, so it is not the batch that is too large.
var errBegin = errors.New("topics: begin")

// attempt tries to bring all items to an end in one transaction. On an error nothing of it stands, unless the error says that
// the transaction was lost.
func (d *dispatcher) attempt(ctx context.Context, items []*item) error {
	tx, err := d.cfg.Store.Begin(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", errBegin, err)
	}
	taken, err := d.take(ctx, tx, items)
	if err == nil && !taken {
		// Duplicates and refusals leave nothing to write.
		_ = tx.Rollback()
		finish(items)
		return nil
	}
	if err == nil {
		err = d.run(ctx, tx, items)
	}
	if err == nil {
		err = tx.Commit(ctx)
	}
	if err != nil {
		ended := errors.Is(tx.Rollback(), ErrTransactionLost)
		var failed *handlerError
		if errors.As(err, &failed) {
			failed.ended = ended
		}
		return err
	}
	finish(items)
	if len(withVerdict(items, verdictHold, verdictSuspect)) > 0 {
		d.awake()
	}
	return nil
}

// take claims the items, decides what to do with them, and writes all of that but the handlers' part. It stands before the
// handlers so that one that commits by itself commits no claim on a message that was refused. taken: something was written.
func (d *dispatcher) take(ctx context.Context, tx StoreTx, items []*item) (taken bool, err error) {
	f, err := d.claim(ctx, tx, items)
	if err != nil {
		return false, err
	}
	decide(items, f)
	var refused []string
	var parked []Parked
	have := map[string]bool{}
	for _, it := range items {
		switch it.verdict {
		case verdictHold:
			parked = append(parked, d.parked(it, ParkedHeld, 0, ""))
		case verdictSuspect:
			parked = append(parked, d.parked(it, ParkedWaiting, 0, "it was handed out before and not settled"))
		}
		if it.verdict != verdictRefuse {
			have[it.ID] = true
			taken = taken || it.verdict != verdictDuplicate
		}
	}
	for _, id := range idsOf(withVerdict(items, verdictRefuse)) {
		if !have[id] {
			refused = append(refused, id)
		}
	}
	if !taken {
		return false, nil
	}
	if len(refused) > 0 {
		if err := tx.Unclaim(ctx, d.uid, refused); err != nil {
			return false, fmt.Errorf("topics: unclaim %d messages: %w", len(refused), err)
		}
	}
	if len(parked) > 0 {
		if err := tx.Park(ctx, parked); err != nil {
			return false, fmt.Errorf("topics: park %d messages: %w", len(parked), err)
		}
	}
	return true, nil
}

// claim writes the barrier rows and reads what decide has to know.
func (d *dispatcher) claim(ctx context.Context, tx StoreTx, items []*item) (f facts, err error) {
	ids := idsOf(items)
	outcomes, err := tx.Claim(ctx, d.uid, ids, txn.Success)
	if err != nil {
		return f, fmt.Errorf("topics: claim %d messages: %w", len(ids), err)
	}
	f.prior = make(map[string]txn.Outcome, len(ids))
	for i, o := range outcomes {
		if o != "" {
			f.prior[ids[i]] = o
		}
	}
	if prevs := strangersOf(items); len(prevs) > 0 {
		if f.claimed, err = tx.Claimed(ctx, d.uid, prevs); err != nil {
			return f, fmt.Errorf("topics: look for predecessors: %w", err)
		}
	}
	if keys := keysOf(items); len(keys) > 0 {
		if f.parked, err = tx.ParkedKeys(ctx, d.uid, keys, d.cfg.HoldOnDead); err != nil {
			return f, fmt.Errorf("topics: look for parked keys: %w", err)
		}
	}
	return f, nil
}

// run calls the handlers, in the order of their keys.
func (d *dispatcher) run(ctx context.Context, tx StoreTx, items []*item) error {
	for _, it := range inKeyOrder(withVerdict(items, verdictRun)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := d.call(ctx, tx.Tx(), firstAttempt(it.Delivery)); err != nil {
			return &handlerError{it: it, err: err}
		}
	}
	return nil
}

// firstAttempt counts for the handler: executions here, not the relay's sends.
func firstAttempt(dl broker.Delivery) broker.Delivery {
	if dl.Attempt != 1 {
		m := *dl.Message
		m.Attempt = 1
		dl.Message = &m
	}
	return dl
}

// finish notes the outcomes, now that they are committed.
func finish(items []*item) {
	for _, it := range items {
		switch it.verdict {
		case verdictRun:
			it.outcome = txn.Success
		case verdictHold, verdictSuspect:
			it.outcome = txn.Parked
		case verdictShare:
			it.outcome = it.first.outcome
		}
		it.settled = true
	}
}

// sift settles, in one transaction, what of a batch need not run: duplicates, what was refused, what is held or suspect. It is
// for handlers with a transaction per message, which would otherwise commit for each of a thousand repetitions. What it
// leaves is decided again, message by message.
func (d *dispatcher) sift(ctx context.Context, items []*item) error {
	tx, err := d.cfg.Store.Begin(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", errBegin, err)
	}
	defer func() { _ = tx.Rollback() }()
	idle, err := d.idle(ctx, tx, items)
	if err != nil || len(idle) == 0 {
		return err
	}
	taken, err := d.take(ctx, tx, idle)
	if err != nil {
		return err
	}
	for _, it := range idle {
		if it.verdict == verdictRun {
			return nil // it changed meanwhile; one by one, then
		}
	}
	if taken {
		if err := tx.Commit(ctx); err != nil {
			return fmt.Errorf("topics: commit parked messages: %w", err)
		}
		d.awake()
	}
	finish(idle)
	return nil
}

// idle lists the items that will not run whatever becomes of the others of the batch.
func (d *dispatcher) idle(ctx context.Context, tx StoreTx, items []*item) ([]*item, error) {
	f := facts{prior: map[string]txn.Outcome{}}
	var err error
	if f.claimed, err = tx.Claimed(ctx, d.uid, append(idsOf(items), strangersOf(items)...)); err != nil {
		return nil, fmt.Errorf("topics: look for duplicates: %w", err)
	}
	for id := range f.claimed {
		f.prior[id] = txn.Parked // any: the claim tells which
	}
	if keys := keysOf(items); len(keys) > 0 {
		if f.parked, err = tx.ParkedKeys(ctx, d.uid, keys, d.cfg.HoldOnDead); err != nil {
			return nil, fmt.Errorf("topics: look for parked keys: %w", err)
		}
	}
	decide(items, f)
	runs := map[string]bool{}
	left := map[string]bool{}
	var idle []*item
	for _, it := range items {
		switch {
		case it.verdict == verdictRun || it.verdict == verdictShare || left[it.Prev] || it.Key != "" && runs[it.Key]:
			left[it.ID] = true
			runs[it.Key] = true
		default:
			idle = append(idle, it)
		}
	}
	return idle, nil
}
