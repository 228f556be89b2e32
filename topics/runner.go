package topics

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/orchestrator/txn"
)

// dueLimit bounds one look at the parked messages.
const dueLimit = 64

// reasonKills is the reason of a message none of whose attempts ended.
const reasonKills = "it was started %d times and the last attempt never ended: it may have killed the process (a crash, out of memory); look into it before replaying"

// runParked runs the parked messages that are due, until none is, and tells when to call it again at the latest (zero: nothing
// waits). After a message of a key succeeded, its successors are due at once. An error is the store's or the context's.
func (d *dispatcher) runParked(ctx context.Context) (next time.Time, err error) {
	return d.runParkedUntil(ctx, nil)
}

// runParkedUntil is runParked that begins no further message after stop is closed.
func (d *dispatcher) runParkedUntil(ctx context.Context, stop <-chan struct{}) (next time.Time, err error) {
	for {
		due, next, err := d.cfg.Store.Due(ctx, d.uid, d.cfg.Now(), d.cfg.HoldOnDead, dueLimit)
		if err != nil {
			return time.Time{}, fmt.Errorf("topics: read due messages of %s: %w", d.cfg.Subscription.Name, err)
		}
		if len(due) == 0 {
			return next, nil
		}
		for _, p := range due {
			select {
			case <-stop:
				return time.Time{}, nil
			default:
			}
			if err := d.runOne(ctx, p); err != nil {
				return time.Time{}, err
			}
		}
	}
}

// runOne counts an attempt in a commit of its own and then makes it. A message that kills the process leaves the count.
func (d *dispatcher) runOne(ctx context.Context, p Parked) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var mine bool
	err := d.persist(ctx, "count an attempt", func() (err error) {
		mine, err = d.count(ctx, &p)
		return err
	})
	if err != nil || !mine {
		return err
	}
	return d.executeParked(ctx, p)
}

// count takes the attempt. mine is false where somebody else was faster, and where all attempts are used up: then the message is
// dead.
func (d *dispatcher) count(ctx context.Context, p *Parked) (mine bool, err error) {
	tx, err := d.cfg.Store.Begin(ctx)
	if err != nil {
		return false, err
	}
	defer func() { _ = tx.Rollback() }()
	got, err := tx.Lock(ctx, d.uid, p.Message.ID)
	if errors.Is(err, ErrNotParked) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	now := d.cfg.Now()
	if got.State != p.State || got.Attempts != p.Attempts || got.State == ParkedDead || got.State == ParkedWaiting && got.NextAt.After(now) {
		return false, nil
	}
	if mine = got.Attempts < d.cfg.MaxAttempts; mine {
		got.State, got.Attempts = ParkedWaiting, got.Attempts+1
		got.NextAt = now.Add(d.cfg.Backoff(got.Attempts))
	} else {
		got.State, got.Reason = ParkedDead, fmt.Sprintf(reasonKills, got.Attempts)
	}
	if err := tx.Update(ctx, got); err != nil {
		return false, err
	}
	if err := tx.Commit(ctx); err != nil {
		return false, err
	}
	if !mine {
		d.log.Error("parked message is dead", "id", got.Message.ID, "gid", got.Message.GID, "reason", got.Reason)
	}
	got.Message = p.Message
	*p = got
	return mine, nil
}

// executeParked makes the attempt that was counted.
func (d *dispatcher) executeParked(ctx context.Context, p Parked) error {
	for try := 1; ; try++ {
		err := d.attemptParked(ctx, p)
		if err == nil || errors.Is(err, ErrNotParked) || errors.Is(err, ErrConflict) {
			return nil // done, or in somebody else's hands
		}
		if ctx.Err() != nil {
			d.uncount(ctx, p)
			return fmt.Errorf("topics: stopped in a parked message of %s: %w", d.cfg.Subscription.Name, ctx.Err())
		}
		var failed *handlerError
		switch {
		case errors.As(err, &failed):
			if failed.ended {
				if gone, err := d.buryParked(ctx, p, false, reasonMayHaveRun+"the handler committed the transaction and then failed"); gone || err != nil {
					return err
				}
			}
			if !d.tryAgain(failed.err) || try >= handlerPatience {
				return d.persist(ctx, "note a failed attempt", func() error { return d.noteFailure(ctx, p, failed.err) })
			}
		case errors.Is(err, ErrTransactionLost):
			_, err := d.buryParked(ctx, p, true, reasonMayHaveRun+reasonOf(err))
			return err
		}
		d.log.Warn("transaction repeated", "id", p.Message.ID, "try", try, "error", err)
		if d.cfg.Pause(ctx, try) != nil {
			d.uncount(ctx, p)
			return fmt.Errorf("topics: stopped while the database of %s does not work: %w", d.cfg.Subscription.Name, ctx.Err())
		}
	}
}

// attemptParked runs the handler. The row is settled before it, in the same transaction: a handler that commits by itself then
// cannot leave a row behind that runs again.
func (d *dispatcher) attemptParked(ctx context.Context, p Parked) (err error) {
	tx, err := d.cfg.Store.Begin(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", errBegin, err)
	}
	defer func() {
		if err == nil {
			return
		}
		ended := errors.Is(tx.Rollback(), ErrTransactionLost)
		var failed *handlerError
		if errors.As(err, &failed) {
			failed.ended = ended
		}
	}()
	got, err := tx.Lock(ctx, d.uid, p.Message.ID)
	if err != nil {
		return fmt.Errorf("topics: lock a parked message: %w", err)
	}
	if got.Attempts != p.Attempts || got.State != ParkedWaiting {
		return ErrConflict
	}
	if err := tx.Settle(ctx, d.uid, p.Message.ID, txn.Success); err != nil {
		return fmt.Errorf("topics: settle a parked message: %w", err)
	}
	m := p.Message
	m.Attempt = p.Attempts
	if err := d.call(ctx, tx.Tx(), broker.Delivery{Message: &m}); err != nil {
		return &handlerError{err: err}
	}
	return tx.Commit(ctx)
}

// noteFailure sets when the message runs again, or that it does not.
func (d *dispatcher) noteFailure(ctx context.Context, p Parked, cause error) error {
	return d.change(ctx, p, func(got *Parked) {
		got.Reason = reasonOf(cause)
		got.NextAt = d.cfg.Now().Add(d.cfg.Backoff(got.Attempts))
		switch {
		case d.tryAgain(cause):
			got.Attempts--
		case isDead(cause) || got.Attempts >= d.cfg.MaxAttempts:
			got.State = ParkedDead
			d.log.Error("parked message is dead", "id", p.Message.ID, "gid", p.Message.GID, "attempts", got.Attempts, "reason", got.Reason)
		}
	})
}

// uncountTimeout bounds the last write of a process that stops.
const uncountTimeout = 2 * time.Second

// uncount gives an attempt back that the process's stop interrupted. If that fails the attempt is lost, no more.
func (d *dispatcher) uncount(ctx context.Context, p Parked) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), uncountTimeout)
	defer cancel()
	err := d.change(ctx, p, func(got *Parked) {
		got.Attempts--
		got.NextAt = d.cfg.Now()
	})
	if err != nil {
		d.log.Warn("an interrupted attempt stays counted", "id", p.Message.ID, "error", err)
	}
}

// change updates a parked message if it still is as p counted it.
func (d *dispatcher) change(ctx context.Context, p Parked, fn func(*Parked)) error {
	tx, err := d.cfg.Store.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	got, err := tx.Lock(ctx, d.uid, p.Message.ID)
	if errors.Is(err, ErrNotParked) {
		return nil
	}
	if err != nil {
		return err
	}
	if got.Attempts != p.Attempts || got.State != ParkedWaiting {
		return nil
	}
	fn(&got)
	if err := tx.Update(ctx, got); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// buryParked marks a parked message as dead that may have run. If its row is gone, what removed it was committed by the handler,
// and it is parked anew. If it is still there, the transaction left nothing of ours, and whether it is dead depends: always
// says that the handler's work may stand nevertheless.
func (d *dispatcher) buryParked(ctx context.Context, p Parked, always bool, reason string) (gone bool, err error) {
	err = d.persist(ctx, "park a message that may have run", func() error {
		gone, err = d.tryBuryParked(ctx, p, always, reason)
		return err
	})
	if err == nil && (gone || always) {
		d.log.Error("message parked as dead", "id", p.Message.ID, "gid", p.Message.GID, "reason", reason)
	}
	return gone, err
}

func (d *dispatcher) tryBuryParked(ctx context.Context, p Parked, always bool, reason string) (gone bool, err error) {
	tx, err := d.cfg.Store.Begin(ctx)
	if err != nil {
		return false, err
	}
	defer func() { _ = tx.Rollback() }()
	got, err := tx.Lock(ctx, d.uid, p.Message.ID)
	switch {
	case err == nil && !always:
		return false, nil
	case err == nil:
		got.State, got.Reason = ParkedDead, reason
		err = tx.Update(ctx, got)
	case errors.Is(err, ErrNotParked):
		gone = true
		if err = d.parkAgain(ctx, tx, p, reason); errors.Is(err, ErrConflict) {
			return true, nil // on this store, only another process can have ended it
		}
	}
	if err != nil {
		return false, err
	}
	return gone, tx.Commit(ctx)
}

func (d *dispatcher) parkAgain(ctx context.Context, tx StoreTx, p Parked, reason string) error {
	if _, err := tx.Claim(ctx, d.uid, []string{p.Message.ID}, txn.Parked); err != nil {
		return err
	}
	p.State, p.Reason, p.ParkedAt = ParkedDead, reason, d.cfg.Now()
	return tx.Park(ctx, []Parked{p})
}
