package memory

import (
	"context"
	"slices"
	"strconv"

	"github.com/twostep-mq/twostep/outbox"
)

// Scan implements outbox.RelayStore.
func (s *Store) Scan(ctx context.Context, after int64, limit int, payload bool) (outbox.Page, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return outbox.Page{}, err
	}
	p := s.page()
	i, _ := s.find(after + 1)
	for ; i < len(s.rows) && len(p.Rows) < limit && !s.full(&p); i++ {
		p.Rows = append(p.Rows, copied(s.rows[i], payload))
	}
	return p, nil
}

// Read implements outbox.RelayStore.
func (s *Store) Read(ctx context.Context, seqs []int64) (outbox.Page, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return outbox.Page{}, err
	}
	p := s.page()
	for _, seq := range slices.Sorted(slices.Values(seqs)) {
		if i, ok := s.find(seq); ok && !s.full(&p) {
			p.Rows = append(p.Rows, copied(s.rows[i], true))
		}
	}
	return p, nil
}

// full reports, and notes, that no further row fits into the page.
func (s *Store) full(p *outbox.Page) bool {
	if s.cfg.PageBytes == 0 {
		return false
	}
	size := 0
	for i := range p.Rows {
		size += len(p.Rows[i].Payload)
	}
	p.Cut = size >= s.cfg.PageBytes
	return p.Cut
}

func copied(r *outbox.Row, payload bool) outbox.Row {
	c := *r
	c.Size = len(c.Payload)
	if !payload {
		c.Payload = nil
	}
	return c
}

// Probe implements outbox.RelayStore. A gap closes as on PostgreSQL: when it is old enough and every transaction that was open at
// its discovery has ended.
func (s *Store) Probe(ctx context.Context, gaps []outbox.Gap, limit int) (p outbox.Page, closed []outbox.Gap, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return outbox.Page{}, nil, err
	}
	p = s.page()
	oldest := s.xid
	for xid := range s.open {
		oldest = min(oldest, xid)
	}
	for _, g := range gaps {
		from := g.From
		i, _ := s.find(g.From)
		full := false
		for ; i < len(s.rows) && s.rows[i].Seq <= g.To; i++ {
			if full = len(p.Rows) >= limit || s.full(&p); full {
				break
			}
			p.Rows = append(p.Rows, copied(s.rows[i], true))
		}
		mark, err := strconv.ParseInt(g.Mark, 10, 64)
		if err != nil || g.Age < s.cfg.GapAge || oldest < mark {
			continue
		}
		for _, r := range p.Rows {
			if r.Seq < g.From || r.Seq > g.To {
				continue
			}
			if from < r.Seq {
				closed = append(closed, outbox.Gap{From: from, To: r.Seq - 1})
			}
			from = r.Seq + 1
		}
		if !full && from <= g.To {
			closed = append(closed, outbox.Gap{From: from, To: g.To})
		}
	}
	return p, closed, nil
}
