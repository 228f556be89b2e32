package outbox

import (
	"cmp"
	"slices"
	"time"

	"github.com/RoaringBitmap/roaring/v2/roaring64"
)

// gaps are row numbers below the scanned ones at which no row was seen yet. Row numbers become visible out of order: a
// relay that pages by "seq > last" skips what commits late. They are sorted and do not overlap: after a restore there may be
// hundreds of thousands.
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

// pause is how long to wait between two looks at the gaps, by the age of the youngest.
func (g *gaps) pause(now time.Time) time.Duration {
	if g.empty() {
		return probeEvery
	}
	age := now.Sub(g.open[len(g.open)-1].since)
	return min(max(probeEvery, time.Duration(probeShare*float64(age))), probeSeldom)
}

// probe returns the gaps as the store wants them, the youngest first: where probing takes several reads, a late row's successor
// must not be found before it.
func (g *gaps) probe(now time.Time) []Gap {
	out := make([]Gap, 0, len(g.open))
	for _, o := range slices.Backward(g.open) {
		out = append(out, Gap{From: o.from, To: o.to, Age: now.Sub(o.since), Mark: o.mark})
	}
	return out
}

// touching returns the bounds in open of the gaps that [from, to] touches.
func (g *gaps) touching(from, to int64) (first, end int) {
	first, _ = slices.BinarySearchFunc(g.open, from, func(o openGap, seq int64) int { return cmp.Compare(o.to, seq) })
	end = first
	for end < len(g.open) && g.open[end].from <= to {
		end++
	}
	return first, end
}

// within returns what is still open of some gaps, in their order.
func (g *gaps) within(some []Gap, now time.Time) (out []Gap) {
	for _, s := range some {
		first, end := g.touching(s.From, s.To)
		for _, o := range slices.Backward(g.open[first:end]) {
			out = append(out, Gap{From: max(o.from, s.From), To: min(o.to, s.To), Age: now.Sub(o.since), Mark: o.mark})
		}
	}
	return out
}

// fill takes [from, to] out: a row was found there, or never will be.
func (g *gaps) fill(from, to int64) {
	first, end := g.touching(from, to)
	if first == end {
		return
	}
	var left [2]openGap
	n := 0
	if o := g.open[first]; o.from < from {
		left[n] = openGap{o.from, from - 1, o.since, o.mark}
		n++
	}
	if o := g.open[end-1]; to < o.to {
		left[n] = openGap{to + 1, o.to, o.since, o.mark}
		n++
	}
	g.open = slices.Replace(g.open, first, end, left[:n]...)
}

// holds reports whether seq lies in an open gap.
func (g *gaps) holds(seq int64) bool {
	first, end := g.touching(seq, seq)
	return first < end
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
