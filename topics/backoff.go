package topics

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	// defaultMaxAttempts of a message before it becomes a dead letter; with defaultBackoff some four minutes.
	defaultMaxAttempts = 20
	firstBackoff       = 250 * time.Millisecond
	maxBackoff         = 15 * time.Second
	// firstStoreWait and maxStoreWait bound the pauses while the database does not work.
	firstStoreWait = 20 * time.Millisecond
	maxStoreWait   = 5 * time.Second
)

// defaultBackoff is the pause after the attempt with this number (from 1) failed.
func defaultBackoff(attempt int) time.Duration { return jittered(firstBackoff, maxBackoff, attempt) }

// jittered doubles first with each attempt up to limit, and takes a random fifth off, so that what failed together is not repeated
// together.
func jittered(first, limit time.Duration, attempt int) time.Duration {
	wait := limit
	if shift := max(attempt-1, 0); shift < 20 {
		wait = min(first<<shift, limit)
	}
	return wait - time.Duration(rand.Int64N(int64(wait)/5+1))
}

// pause waits before the database is asked again; it returns the context's error if that ends first.
func pause(ctx context.Context, try int) error {
	t := time.NewTimer(jittered(firstStoreWait, maxStoreWait, try))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
