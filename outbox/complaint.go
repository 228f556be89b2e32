package outbox

import (
	"log/slog"
	"time"
)

const (
	// complainEvery is how often an error that stays is logged; another one is after complainSoon at the earliest.
	complainEvery = 10 * time.Second
	complainSoon  = time.Second
)

// complaint logs what fails many times a second while, say, the database is gone, without a line for each time.
type complaint struct {
	log    *slog.Logger
	failed int // times in a row
	since  time.Time
	last   string
	saidAt time.Time
}

// about notes how something went.
func (c *complaint) about(err error, now time.Time) {
	if err == nil {
		if c.failed > 1 {
			c.log.Info("the relay goes on", "failed_rounds", c.failed, "after", now.Sub(c.since).Round(time.Millisecond))
		}
		c.failed, c.last = 0, ""
		return
	}
	c.failed++
	if c.failed == 1 {
		c.since = now
	}
	wait := complainEvery
	if err.Error() != c.last {
		wait = complainSoon
	}
	if c.failed > 1 && now.Sub(c.saidAt) < wait {
		return
	}
	c.last, c.saidAt = err.Error(), now
	c.log.Warn("relay round failed; it is tried again", "error", err, "failed_rounds", c.failed)
}
