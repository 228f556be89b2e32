package main

import (
	"context"

	"github.com/twostep-mq/twostep/cmd/internal/database"
)

// commitMeter adds up the commits of databases by their own counters.
type commitMeter struct {
	sources []*database.Database
	last    []int64
}

// watch begins to count a database. Two databases of one server have one counter.
func (m *commitMeter) watch(ctx context.Context, db *database.Database) error {
	if db.Kind != database.SQLite {
		for _, other := range m.sources {
			if other.Where() == db.Where() {
				return nil
			}
		}
	}
	n, err := db.Commits(ctx)
	if err == nil {
		m.sources, m.last = append(m.sources, db), append(m.last, n)
	}
	return err
}

// read returns how many commits there were since the last call. A server that does not answer is asked next time; one that was
// restarted may have begun anew, and what it had not told is lost.
func (m *commitMeter) read(ctx context.Context) (commits int64) {
	for i, source := range m.sources {
		n, err := source.Commits(ctx)
		if err != nil {
			continue
		}
		if n >= m.last[i] {
			commits += n - m.last[i]
		} else {
			commits += n
		}
		m.last[i] = n
	}
	return commits
}
