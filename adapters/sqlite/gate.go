package sqlite

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// gate is the queue of one file's writers in this process: first come, first served. SQLite has one writer at a time; without
// a queue the others poll, which is unfair (a writer that comes back at once nearly always wins) and slow.
type gate struct {
	mu      sync.Mutex
	taken   bool
	waiting []chan struct{} // closed when it is the waiter's turn
}

// enter waits until it is the caller's turn; at most for timeout (ErrBusy), or until ctx ends.
func (g *gate) enter(ctx context.Context, timeout time.Duration) error {
	g.mu.Lock()
	if !g.taken {
		g.taken = true
		g.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	g.waiting = append(g.waiting, turn)
	g.mu.Unlock()

	timer := time.NewTimer(timeout)
	defer timer.Stop()
	var err error
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-timer.C:
		err = fmt.Errorf("%w: other transactions of this process held the database for %v. A transaction that waits for a "+
			"second one on the same file waits for itself; otherwise try again", ErrBusy, timeout)
	}
	g.giveUp(turn)
	return err
}

// giveUp takes a waiter out of the queue, or lets the next one in if it was its turn already.
func (g *gate) giveUp(turn chan struct{}) {
	g.mu.Lock()
	i := slices.Index(g.waiting, turn)
	if i >= 0 {
		g.waiting = slices.Delete(g.waiting, i, i+1)
	}
	g.mu.Unlock()
	if i < 0 {
		g.leave()
	}
}

// leave lets the next writer in.
func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.waiting) == 0 {
		g.taken = false
		return
	}
	next := g.waiting[0]
	g.waiting = g.waiting[1:]
	close(next)
}
