package mysql

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"time"

	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/outbox/storage"
)

const (
	// closeAfter is how old a gap must be before it is closed: a number given out is a row in the table at once, but the thread
	// between the two may be held up.
	closeAfter = 10 * time.Second
	// wideGap is from how many numbers on a gap is locked as a range. The range also looks at the row behind it, so that an open
	// transaction there keeps the gap open, too; but listing its numbers would cost too much.
	wideGap = 1000
	// lockAgain is how soon a gap found locked is tried again.
	lockAgain = time.Second
)

const (
	probeRows = "SELECT " + rowColumns + " FROM `{p}outbox` o FORCE INDEX (PRIMARY) WHERE "
	probeGap  = "o.seq BETWEEN ? AND ?"

	// Each number is looked up in the primary key. A row of an open transaction is there and locked, which is an error; a number
	// without a row takes no lock under READ COMMITTED.
	lockNumbers = "SELECT o.seq FROM JSON_TABLE(?, '$[*]' COLUMNS (n BIGINT PATH '$')) g " +
		"STRAIGHT_JOIN `{p}outbox` o FORCE INDEX (PRIMARY) ON o.seq = g.n"
	lockRange = "SELECT o.seq FROM `{p}outbox` o FORCE INDEX (PRIMARY) WHERE o.seq BETWEEN ? AND ? FOR UPDATE NOWAIT"
)

// Probe reads what has appeared in gaps, and closes those that are old enough and whose numbers neither have a row nor are held by an open
// transaction.
//
// The rows first, in one snapshot, then the locks: a row that commits between the two is found by the locking read, and so not closed.
// A gap with a locked row stays open as a whole: a statement that inserts many rows has taken all their numbers before the first.
func (o *Outbox) Probe(ctx context.Context, gaps []outbox.Gap, limit int) (p outbox.Page, closed []outbox.Gap, err error) {
	err = o.read(ctx, "probe gaps of the outbox", sql.TxOptions{Isolation: sql.LevelReadCommitted}, func(s snapshot) (err error) {
		p = outbox.Page{Server: s.server}
		if len(gaps) == 0 || limit <= 0 {
			return nil
		}
		var query strings.Builder
		query.WriteString(o.relay.probe)
		args := make([]any, 0, 2*len(gaps)+1)
		for i, g := range gaps {
			if i > 0 {
				query.WriteString(" OR ")
			}
			query.WriteString(probeGap)
			args = append(args, g.From, g.To)
		}
		query.WriteString(" ORDER BY o.seq LIMIT ?")
		if p, err = s.page(ctx, query.String(), append(args, limit)...); err != nil {
			return err
		}
		closed, err = s.close(ctx, gaps, p.Rows, p.Cut || len(p.Rows) == limit)
		return err
	})
	if err != nil {
		return outbox.Page{}, nil, err
	}
	return p, closed, nil
}

// close returns the parts of old gaps that will stay empty for ever.
func (s snapshot) close(ctx context.Context, gaps []outbox.Gap, rows []outbox.Row, cut bool) ([]outbox.Gap, error) {
	var narrow []candidate
	var closed []outbox.Gap
	for _, g := range s.o.due(gaps) {
		c := candidate{gap: g, parts: storage.EmptyParts(g, rows, cut)}
		switch n := c.numbers(); {
		case n == 0:
		case n < wideGap:
			narrow = append(narrow, c)
		default:
			empty, err := s.lockWide(ctx, c)
			if err != nil {
				return nil, err
			}
			closed = append(closed, empty...)
		}
	}
	empty, err := s.lockAll(ctx, narrow)
	return append(closed, empty...), err
}

// candidate is a gap and those parts of it at which no row was seen.
type candidate struct {
	gap   outbox.Gap
	parts []outbox.Gap
}

func (c candidate) numbers() (n int64) {
	for _, p := range c.parts {
		n += p.To - p.From + 1
	}
	return n
}

// due picks the gaps that are old enough and were not found locked a moment ago.
func (o *Outbox) due(gaps []outbox.Gap) (due []outbox.Gap) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for from, at := range o.lockedAt {
		if time.Since(at) >= lockAgain {
			delete(o.lockedAt, from)
		}
	}
	for _, g := range gaps {
		if _, locked := o.lockedAt[g.From]; !locked && g.Age >= closeAfter {
			due = append(due, g)
		}
	}
	return due
}

func (o *Outbox) locked(g outbox.Gap) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lockedAt[g.From] = time.Now()
}

// lockAll tries gaps together, and where one of them is locked, each half by itself.
func (s snapshot) lockAll(ctx context.Context, cs []candidate) (closed []outbox.Gap, err error) {
	if len(cs) == 0 {
		return nil, nil
	}
	if len(cs) > 1 && numbersOf(cs) > wideGap {
		return s.lockHalves(ctx, cs)
	}
	var numbers []int64
	for _, c := range cs {
		for _, p := range c.parts {
			for n := p.From; n <= p.To; n++ {
				numbers = append(numbers, n)
			}
		}
	}
	found, err := s.lock(ctx, s.o.relay.closing, numberList(numbers))
	switch {
	case tryAgain(err) && len(cs) > 1:
		return s.lockHalves(ctx, cs)
	case tryAgain(err):
		s.o.locked(cs[0].gap)
		return nil, nil
	case err != nil:
		return nil, err
	}
	for _, c := range cs {
		closed = append(closed, c.without(found)...)
	}
	return closed, nil
}

func (s snapshot) lockHalves(ctx context.Context, cs []candidate) ([]outbox.Gap, error) {
	half := len(cs) / 2
	first, err := s.lockAll(ctx, cs[:half])
	if err != nil {
		return nil, err
	}
	second, err := s.lockAll(ctx, cs[half:])
	return append(first, second...), err
}

func (s snapshot) lockWide(ctx context.Context, c candidate) ([]outbox.Gap, error) {
	var closed []outbox.Gap
	for _, p := range c.parts {
		found, err := s.lock(ctx, s.o.relay.closingWide, p.From, p.To)
		if tryAgain(err) {
			s.o.locked(c.gap)
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		closed = append(closed, candidate{parts: []outbox.Gap{p}}.without(found)...)
	}
	return closed, nil
}

// lock returns the rows found by a locking read.
func (s snapshot) lock(ctx context.Context, query string, args ...any) (found []outbox.Row, err error) {
	rows, err := s.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var row outbox.Row
		if err := rows.Scan(&row.Seq); err != nil {
			return nil, err
		}
		found = append(found, row)
	}
	return found, rows.Err()
}

// without takes rows out that have appeared since.
func (c candidate) without(rows []outbox.Row) (empty []outbox.Gap) {
	for _, p := range c.parts {
		empty = append(empty, storage.EmptyParts(p, rows, false)...)
	}
	return empty
}

func numbersOf(cs []candidate) (n int64) {
	for _, c := range cs {
		n += c.numbers()
	}
	return n
}
