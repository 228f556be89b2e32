package kafka

import (
	"log/slog"
	"time"
)

// complainEvery is how often what is waited out is said again; in between it is for those who debug.
const complainEvery = 10 * time.Second

// complaint says what does not work, without filling the log while it goes on.
type complaint struct{ said time.Time }

// level of the next line.
func (c *complaint) level() slog.Level {
	if time.Since(c.said) < complainEvery {
		return slog.LevelDebug
	}
	c.said = time.Now()
	return slog.LevelWarn
}
