package watermill

import (
	"context"
	"sync"
)

// life is what Close ends: calls that run are waited for, new ones refused.
type life struct {
	mu      *sync.Mutex
	running *sync.WaitGroup
	// ctx ends with Close.
	ctx  context.Context
	stop context.CancelFunc
}

func newLife() life {
	ctx, stop := context.WithCancel(context.Background())
	return life{mu: new(sync.Mutex), running: new(sync.WaitGroup), ctx: ctx, stop: stop}
}

// begin is followed by end, unless it returns false: it is closed.
func (l life) begin() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx.Err() != nil {
		return false
	}
	l.running.Add(1)
	return true
}

func (l life) end() { l.running.Done() }

// close may be called more than once; each call waits.
func (l life) close() {
	l.mu.Lock()
	l.stop()
	l.mu.Unlock()
	l.running.Wait()
}

// within derives a context that ends with Close, too.
func (l life) within(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(l.ctx, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}
