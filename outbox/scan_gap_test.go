package outbox

import (
	"testing"
	"time"
)

// TestGapAfterScan: single rows and large pages are followed up at once, a stream of rows is gathered.
func TestGapAfterScan(t *testing.T) {
	t.Parallel()
	const us, ms = time.Microsecond, time.Millisecond
	for _, c := range []struct {
		rows int
		more bool
		took time.Duration
		want time.Duration
	}{
		{0, false, 100 * us, scanEvery},
		{1, false, 100 * us, scanEvery},
		{2, false, 100 * us, 5 * ms},
		{99, false, ms, 10 * ms},
		{99, false, 10 * ms, 25 * ms},
		{100, false, 10 * ms, scanEvery},
		{20, true, 10 * ms, scanEvery},
	} {
		if got := gapAfter(c.rows, c.more, c.took); got != c.want {
			t.Errorf("after %d rows (more: %v) in %v: %v, want %v", c.rows, c.more, c.took, got, c.want)
		}
	}
}
