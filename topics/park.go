package topics

import (
	"context"
	"errors"
	"fmt"

	"github.com/twostep-mq/twostep/orchestrator/txn"
)

// reasonMayHaveRun begins the reason of a message whose transaction ended outside the dispatcher's hands.
const reasonMayHaveRun = "may have run: "

// parked is the row that keeps an item on this side.
func (d *dispatcher) parked(it *item, state ParkedState, attempts int, reason string) Parked {
	now := d.cfg.Now()
	return Parked{
		Subscription: d.uid, State: state, Attempts: attempts, NextAt: now, Reason: reason, ParkedAt: now, Message: *it.Message,
	}
}

// parkFailed parks a message whose handler failed when it ran alone.
func (d *dispatcher) parkFailed(ctx context.Context, it *item, cause error) error {
	p := d.parked(it, ParkedWaiting, 1, reasonOf(cause))
	switch {
	case d.tryAgain(cause):
		p.Attempts = 0 // the database's wish is not counted against the message
		p.NextAt = p.NextAt.Add(d.cfg.Backoff(1))
	case isDead(cause) || d.cfg.MaxAttempts <= 1:
		p.State = ParkedDead
	default:
		p.NextAt = p.NextAt.Add(d.cfg.Backoff(1))
	}
	err := d.persist(ctx, "park a failed message", func() error {
		return d.parkAs(ctx, it, p)
	})
	if err != nil {
		return err
	}
	d.log.Warn("message parked", "id", it.ID, "gid", it.GID, "state", p.State, "reason", p.Reason)
	d.awake()
	return nil
}

// parkAs writes the row of one message, unless it has meanwhile got a barrier row from another hand.
func (d *dispatcher) parkAs(ctx context.Context, it *item, p Parked) error {
	tx, err := d.cfg.Store.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	prior, err := tx.Claim(ctx, d.uid, []string{it.ID}, txn.Parked)
	if err != nil {
		return err
	}
	if prior[0] != "" {
		it.outcome, it.settled = receiptWord(prior[0]), true
		return nil
	}
	if err := tx.Park(ctx, []Parked{p}); err != nil {
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		return err
	}
	it.verdict, it.outcome, it.settled = verdictHold, txn.Parked, true
	return nil
}

// buryLost parks as dead every message whose handler ran in a transaction that was lost, since what the handlers did may stand.
// It returns the items that had no handler running, to be decided again.
func (d *dispatcher) buryLost(ctx context.Context, items []*item, cause error) ([]*item, error) {
	return d.bury(ctx, items, func(prior txn.Outcome) bool { return prior == "" || prior == txn.Success },
		reasonMayHaveRun+reasonOf(cause))
}

// buryCommitted is for a transaction that had ended before it was rolled back because of a handler's error. If the database ended it,
// nothing stands and nothing is buried. If a handler committed it, the barrier rows tell, and whatever stands in
// them has, or has not, run.
func (d *dispatcher) buryCommitted(ctx context.Context, items []*item) ([]*item, error) {
	return d.bury(ctx, items, func(prior txn.Outcome) bool { return prior == txn.Success },
		reasonMayHaveRun+"a handler of its batch committed the transaction and then failed: do not use COMMIT in a handler")
}

func (d *dispatcher) bury(ctx context.Context, items []*item, doubtful func(prior txn.Outcome) bool, reason string) (rest []*item, err error) {
	ran := withVerdict(items, verdictRun)
	var buried map[string]bool
	if len(ran) > 0 {
		err = d.persist(ctx, "park messages that may have run", func() error {
			buried, err = d.tryBury(ctx, ran, doubtful, reason)
			if errors.Is(err, ErrConflict) {
				// On this store a barrier row that stands is another process's, which executed the message.
				buried, err = d.tryBury(ctx, ran, func(prior txn.Outcome) bool { return prior == "" && doubtful("") }, reason)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	for _, it := range items {
		if it.verdict == verdictRun && buried[it.ID] {
			it.outcome, it.settled = txn.Parked, true
			d.log.Error("message parked as dead", "id", it.ID, "gid", it.GID, "reason", reason)
			continue
		}
		rest = append(rest, it)
	}
	return rest, nil
}

func (d *dispatcher) tryBury(ctx context.Context, ran []*item, doubtful func(txn.Outcome) bool, reason string) (map[string]bool, error) {
	tx, err := d.cfg.Store.Begin(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = tx.Rollback() }()
	ids := idsOf(ran)
	prior, err := tx.Claim(ctx, d.uid, ids, txn.Parked)
	if err != nil {
		return nil, err
	}
	buried := make(map[string]bool, len(ran))
	var parked []Parked
	var free []string
	for i, it := range ran { // verdictRun is given to an id once, so ran and ids run in step
		switch {
		case doubtful(prior[i]):
			buried[it.ID] = true
			parked = append(parked, d.parked(it, ParkedDead, 1, reason))
		case prior[i] == "":
			free = append(free, it.ID)
		}
	}
	if len(parked) == 0 {
		return buried, nil
	}
	if len(free) > 0 {
		if err := tx.Unclaim(ctx, d.uid, free); err != nil {
			return nil, err
		}
	}
	if err := tx.Park(ctx, parked); err != nil {
		return nil, err
	}
	if err := tx.Commit(ctx); err != nil {
		return nil, fmt.Errorf("topics: commit: %w", err)
	}
	return buried, nil
}
