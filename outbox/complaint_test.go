package outbox

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// TestComplaint: a minute of failures, ten a second, is a handful of lines; a new error is told soon, and so is the end.
func TestComplaint(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	c := complaint{log: slog.New(slog.NewTextHandler(&out, nil))}
	now := time.Unix(1000, 0)
	lines := func() int { return strings.Count(out.String(), "\n") }
	gone := errors.New("no connection")
	for range 600 {
		c.about(gone, now)
		now = now.Add(100 * time.Millisecond)
	}
	if n := lines(); n != 6 || !strings.Contains(out.String(), "failed_rounds=501") {
		t.Errorf("%d lines:\n%s", n, out.String())
	}
	out.Reset()
	c.about(errors.New("the server is starting up"), now) // 9.9 s after the last line
	c.about(gone, now.Add(100*time.Millisecond))
	if n := lines(); n != 1 || !strings.Contains(out.String(), "starting up") {
		t.Errorf("another error: %d lines:\n%s", n, out.String())
	}
	out.Reset()
	c.about(nil, now.Add(time.Second))
	c.about(nil, now.Add(2*time.Second))
	if n := lines(); n != 1 || !strings.Contains(out.String(), "failed_rounds=602 after=1m1s") {
		t.Errorf("the end: %d lines:\n%s", n, out.String())
	}
	out.Reset()
	c.about(gone, now.Add(2*time.Second)) // fails once: one line, and nothing about its end
	c.about(nil, now.Add(3*time.Second))
	if n := lines(); n != 1 {
		t.Errorf("one failure: %d lines:\n%s", n, out.String())
	}
}
