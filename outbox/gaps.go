package outbox

import (
	"slices"
	"time"

	"github.com/RoaringBitmap/roaring/v2/roaring64"
)

// gaps are row numbers below the scanned ones at which no row was seen yet. Row numbers become visible out of order: a
// relay that pages by "seq > last" skips what commits late.
type gaps struct{ open []openGap }

type openGap struct {
	from, to int64
	since    time.Time
	mark     string
}

func (g *gaps) add(from, to int64, since time.Time, mark string) {
	if from <= to {
		g.open = append(g.open, openGap{from: from, to: to, since: since, mark: mark})
	}
}

func (g *gaps) empty() bool { return len(g.open) == 0 }

// probe returns the gaps as the store wants them, the youngest first: where probing takes several reads, a late row's successor
// must not be found before it.
func (g *gaps) probe(now time.Time) []Gap {
	out := make([]Gap, 0, len(g.open))
	for _, o := range slices.Backward(g.open) {
		out = append(out, Gap{From: o.from, To: o.to, Age: now.Sub(o.since), Mark: o.mark})
	}
	return out
}

// within returns what is still open of some gaps, in their order.
func (g *gaps) within(some []Gap, now time.Time) (out []Gap) {
	for _, s := range some {
		for _, o := range slices.Backward(g.open) {
			if from, to := max(o.from, s.From), min(o.to, s.To); from <= to {
				out = append(out, Gap{From: from, To: to, Age: now.Sub(o.since), Mark: o.mark})
			}
		}
	}
	return out
}

// fill takes [from, to] out: a row was found there, or never will be.
func (g *gaps) fill(from, to int64) {
	var out []openGap
	for _, o := range g.open {
		if to < o.from || from > o.to {
			out = append(out, o)
			continue
		}
		if o.from < from {
			out = append(out, openGap{o.from, from - 1, o.since, o.mark})
		}
		if to < o.to {
			out = append(out, openGap{to + 1, o.to, o.since, o.mark})
		}
	}
	g.open = out
}

// holds reports whether seq lies in an open gap.
func (g *gaps) holds(seq int64) bool {
	for _, o := range g.open {
		if o.from <= seq && seq <= o.to {
			return true
		}
	}
	return false
}

// gapsBelow finds the gaps a relay before left open: zeros of the broker's bitmap up to cursor that are no rows.
func gapsBelow(cursor int64, acked, rows *roaring64.Bitmap, now time.Time, mark string) gaps {
	var g gaps
	if cursor <= 0 {
		return g
	}
	zeros := roaring64.New()
	zeros.AddRange(1, uint64(cursor)+1)
	zeros.AndNot(acked)
	zeros.AndNot(rows)
	from, to := int64(0), int64(-1)
	for it := zeros.Iterator(); it.HasNext(); {
		seq := int64(it.Next())
		if seq != to+1 {
			g.add(from, to, now, mark)
			from = seq
		}
		to = seq
	}
	if to > 0 {
		g.add(from, to, now, mark)
	}
	return g
}
