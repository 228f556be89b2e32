package outbox

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestBurst: after a Publish the bell is rung at growing intervals, and then never again.
func TestBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rings atomic.Int64
		b := newBurst(func() { rings.Add(1) })
		b.start()
		time.Sleep(burstFirst + time.Millisecond)
		if n := rings.Load(); n != 1 {
			t.Errorf("%d rings after %v", n, burstFirst)
		}
		time.Sleep(time.Second)
		n := rings.Load()
		if n < 5 || n > 12 {
			t.Errorf("%d rings in a second", n)
		}
		time.Sleep(time.Hour)
		if rings.Load() != n {
			t.Error("the bell rings for ever")
		}
		b.start()
		time.Sleep(burstFirst + time.Millisecond)
		if rings.Load() != n+1 {
			t.Error("the next Publish does not begin anew")
		}
		time.Sleep(time.Second) // let the timers end
	})
}

// TestBurstOfCommits: many at once ring few times, and the last one is never without a ring after it.
func TestBurstOfCommits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rings, last atomic.Int64
		b := newBurst(func() { rings.Add(1); last.Store(time.Now().UnixNano()) })
		var commit time.Time
		for range 100 {
			commit = time.Now()
			b.now()
			time.Sleep(10 * time.Microsecond)
		}
		time.Sleep(time.Second)
		if n := rings.Load(); n < 2 || n > 6 {
			t.Errorf("%d rings for 100 commits within a millisecond", n)
		}
		if last.Load() < commit.UnixNano() {
			t.Error("no ring after the last commit")
		}
	})
}

// TestHangingBellHoldsNobodyUp: the broker hangs. Who commits does not wait for it, and there is one ring under way, not one for each.
func TestHangingBellHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rings atomic.Int64
		hang := make(chan struct{})
		b := newBurst(func() { rings.Add(1); <-hang })
		began := time.Now()
		for range 100 {
			b.now()
			b.start()
			time.Sleep(time.Millisecond)
		}
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("100 commits took %v", took)
		}
		if n := rings.Load(); n > 2 { // one at once, one of the burst
			t.Errorf("%d rings under way", n)
		}
		close(hang)
		time.Sleep(time.Hour)
	})
}
