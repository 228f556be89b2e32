package mysql

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/twostep-mq/twostep/outbox"
)

const (
	// deadlockTries is how often a transaction that a deadlock ended is tried.
	deadlockTries = 25
	// deadlockPause is the mean pause before the second try. It doubles with each, up to deadlockPauseMost: on a busy machine short pauses
	// end before those are done that won.
	deadlockPause     = 2 * time.Millisecond
	deadlockPauseMost = 128 * time.Millisecond
)

// Transact runs fn in a transaction (READ COMMITTED) and commits it if fn returns nil. Callers at the same time have transactions of their
// own; the server flushes their commits together. A deadlock runs fn again, up to 25 times. Where fn ended the transaction itself,
// the error is ErrEnded; what it committed stands.
func (o *Outbox) Transact(ctx context.Context, fn func(outbox.Tx) error) error {
	for try := 1; ; try++ {
		err := o.transact(ctx, fn)
		if !is(err, codeDeadlock, codeRecordChanged) || try == deadlockTries {
			return err
		}
		if err := pauseBefore(ctx, try); err != nil {
			return err
		}
	}
}

// pauseBefore waits before the next try, each caller for another time.
func pauseBefore(ctx context.Context, try int) error {
	pause := time.NewTimer(rand.N(2 * min(deadlockPause<<min(try-1, 10), deadlockPauseMost)))
	defer pause.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-pause.C:
		return nil
	}
}

func (o *Outbox) transact(ctx context.Context, fn func(outbox.Tx) error) error {
	n, err := o.srv.begin(ctx)
	if err != nil {
		return explain("begin", err)
	}
	handed := &managedTx{n: n}
	// Whatever fn does, a panic and runtime.Goexit included: what is not committed is rolled back.
	defer func() {
		handed.close()
		_ = n.rollback()
	}()
	if err := fn(handed); err != nil {
		return err
	}
	handed.close()
	if err := ctx.Err(); err != nil {
		return err // whoever asked has given up: it must not be surprised by a commit
	}
	if err := n.commit(); err != nil {
		return explain("commit", fmt.Errorf("transact: %w", err))
	}
	return nil
}
