package topics

import (
	"testing"
	"time"
)

// TestPace: how long a subscription waits between batches, by how many messages come, how often, and how long a batch takes.
func TestPace(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	for _, c := range []struct {
		name        string
		messages    int
		every, took time.Duration
		want        time.Duration
	}{
		{"calm", 1, 5 * ms, ms, 0},
		{"one message after the other", 1, 1200 * time.Microsecond, ms, 7 * ms},
		{"busy", 5, 2 * ms, ms, 7 * ms},
		{"busy on a slow disk", 3, 6 * ms, 5 * ms, 15 * ms},
		{"long batches", 5, 25 * ms, 20 * ms, 0},
		{"large batches", 64, 2 * ms, ms, 0},
		{"a burst now and then", 40, 500 * ms, 2 * ms, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			begun := time.Unix(0, 0)
			p := pace{enough: paceEnough, since: begun}
			var got time.Duration
			for range 200 {
				got = p.rest(c.messages, begun, begun.Add(c.took))
				begun = begun.Add(c.every)
			}
			if got != c.want {
				t.Errorf("waits %v, want %v", got, c.want)
			}
		})
	}
}

// TestPaceEndsWithTheLoad: after a lull the first message is followed by no wait.
func TestPaceEndsWithTheLoad(t *testing.T) {
	t.Parallel()
	begun := time.Unix(0, 0)
	p := pace{enough: paceEnough, since: begun}
	for range 200 {
		p.rest(5, begun, begun.Add(time.Millisecond))
		begun = begun.Add(2 * time.Millisecond)
	}
	begun = begun.Add(time.Second)
	if got := p.rest(1, begun, begun.Add(time.Millisecond)); got != 0 {
		t.Errorf("waits %v after a second of silence", got)
	}
}
