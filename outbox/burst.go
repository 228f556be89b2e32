package outbox

import (
	"sync"
	"time"
)

// A transaction that belongs to the caller commits without telling us. So after Publish the bell is rung at short, growing
// intervals; a new Publish starts over. That is cheaper than any notification in the commit path, and finds a row whose
// transaction commits at once within a few milliseconds.
const (
	burstFirst = 2 * time.Millisecond
	burstLast  = 128 * time.Millisecond
	// ringEvery bounds how often now rings: a burst of commits needs one ring.
	ringEvery = 500 * time.Microsecond
)

type burst struct {
	ring func()

	mu       sync.Mutex
	interval time.Duration // of the next ring; 0: no timer runs
	again    bool          // rung within ringEvery: once more when it is over
	quiet    bool          // within ringEvery of the last ring
}

func newBurst(ring func()) *burst { return &burst{ring: ring} }

// start begins a burst, or begins the running one anew.
func (b *burst) start() {
	b.mu.Lock()
	defer b.mu.Unlock()
	running := b.interval != 0
	b.interval = burstFirst
	if !running {
		time.AfterFunc(burstFirst, b.fire)
	}
}

func (b *burst) fire() {
	b.ring()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.interval > burstLast {
		b.interval = 0
		return
	}
	time.AfterFunc(b.interval, b.fire)
	b.interval *= 2
}

// now rings at once, or at the end of a short pause if it has just rung. It does not wait for the ring: a broker that hangs must not
// hold up who has just committed.
func (b *burst) now() {
	b.mu.Lock()
	if b.quiet {
		b.again = true
		b.mu.Unlock()
		return
	}
	b.quiet = true
	b.mu.Unlock()
	go func() {
		b.ring()
		time.AfterFunc(ringEvery, b.pauseOver)
	}()
}

func (b *burst) pauseOver() {
	b.mu.Lock()
	again := b.again
	b.quiet, b.again = false, false
	b.mu.Unlock()
	if again {
		b.now()
	}
}
