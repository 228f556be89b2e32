package outbox

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/RoaringBitmap/roaring/v2/roaring64"
)

func (g *gaps) text() string {
	out := ""
	for _, o := range g.open {
		out += fmt.Sprintf("%d-%d ", o.from, o.to)
	}
	return out
}

func TestGapsAreFilledPieceByPiece(t *testing.T) {
	t.Parallel()
	at := time.Unix(1000, 0)
	for _, c := range []struct {
		from, to int64
		want     string
	}{
		{1, 9, "20-20 "},
		{3, 3, "1-2 4-9 20-20 "},
		{1, 1, "2-9 20-20 "},
		{9, 9, "1-8 20-20 "},
		{5, 30, "1-4 "},
		{10, 19, "1-9 20-20 "},
		{1, 100, ""},
	} {
		var g gaps
		g.add(1, 9, at, "m")
		g.add(12, 11, at, "m") // empty
		g.add(20, 20, at, "m")
		g.fill(c.from, c.to)
		if got := g.text(); got != c.want {
			t.Errorf("fill %d-%d: %q, want %q", c.from, c.to, got, c.want)
		}
		for seq := int64(1); seq <= 25; seq++ {
			was := seq <= 9 || seq == 20
			if got, want := g.holds(seq), was && (seq < c.from || seq > c.to); got != want {
				t.Errorf("fill %d-%d: holds %d: %v", c.from, c.to, seq, got)
			}
		}
		if g.empty() != (c.want == "") {
			t.Error("empty is wrong")
		}
	}
}

// TestGapsAreProbedYoungestFirst: where a probe takes several reads, a late row's successor must not be found before it.
func TestGapsAreProbedYoungestFirst(t *testing.T) {
	t.Parallel()
	var g gaps
	at := time.Unix(1000, 0)
	g.add(1, 2, at, "a")
	g.add(5, 6, at.Add(time.Second), "b")
	g.add(9, 9, at.Add(2*time.Second), "c")
	now := at.Add(10 * time.Second)
	got := g.probe(now)
	want := []Gap{
		{From: 9, To: 9, Age: 8 * time.Second, Mark: "c"}, {From: 5, To: 6, Age: 9 * time.Second, Mark: "b"},
		{From: 1, To: 2, Age: 10 * time.Second, Mark: "a"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	g.fill(5, 5)
	g.fill(9, 9)
	if got, want := g.within(got[:2], now), []Gap{{From: 6, To: 6, Age: 9 * time.Second, Mark: "b"}}; !slices.Equal(got, want) {
		t.Errorf("still open %v, want %v", got, want)
	}
}

// TestOldGapsAreProbedSeldom: an open transaction costs a database few reads, and the youngest gap counts.
func TestOldGapsAreProbedSeldom(t *testing.T) {
	t.Parallel()
	var g gaps
	at := time.Unix(1000, 0)
	g.add(1, 2, at, "a")
	var looks int
	for now := at; now.Before(at.Add(time.Minute)); now = now.Add(g.pause(now)) {
		looks++
	}
	if looks > 120 {
		t.Errorf("an open gap is looked at %d times in its first minute", looks)
	}
	for age, want := range map[time.Duration]time.Duration{
		0: probeEvery, time.Millisecond: probeEvery, time.Second: 100 * time.Millisecond, 10 * time.Second: time.Second, time.Hour: time.Second,
	} {
		if got := g.pause(at.Add(age)); got != want {
			t.Errorf("a gap %v old is looked at after %v, want %v", age, got, want)
		}
	}
	g.add(5, 6, at.Add(time.Hour), "b")
	if got := g.pause(at.Add(time.Hour)); got != probeEvery {
		t.Errorf("a young gap beside an old one is looked at after %v", got)
	}
}

// TestGapsBelow: what a relay before left open are the zeros of the broker's bitmap that are no rows.
func TestGapsBelow(t *testing.T) {
	t.Parallel()
	acked := roaring64.BitmapOf(1, 2, 5, 6, 10)
	rows := roaring64.BitmapOf(2, 7, 12)
	for cursor, want := range map[int64]string{
		0: "", 1: "", 3: "3-3 ", 4: "3-4 ", 7: "3-4 ", 9: "3-4 8-9 ", 12: "3-4 8-9 11-11 ", 14: "3-4 8-9 11-11 13-14 ",
	} {
		g := gapsBelow(cursor, acked, rows, time.Time{}, "mark")
		if got := g.text(); got != want {
			t.Errorf("below %d: %q, want %q", cursor, got, want)
		}
	}
}

// TestGapsAgainstASet fills at random and compares with what a plain set of numbers says.
func TestGapsAgainstASet(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		var g gaps
		open := map[int64]bool{}
		for seq := int64(1); seq < 60; {
			to := seq + rng.Int64N(4)
			g.add(seq, to, time.Time{}, "")
			for ; seq <= to; seq++ {
				open[seq] = true
			}
			seq += 1 + rng.Int64N(3)
		}
		for range 20 {
			from := rng.Int64N(64)
			to := from + rng.Int64N(6)
			var within int64
			for _, w := range g.within([]Gap{{From: from, To: to}}, time.Time{}) {
				within += w.To - w.From + 1
			}
			g.fill(from, to)
			for seq := from; seq <= to; seq++ {
				if open[seq] {
					within--
				}
				delete(open, seq)
			}
			if within != 0 {
				t.Fatalf("within %d-%d is off by %d", from, to, within)
			}
			for seq := range int64(70) {
				if g.holds(seq) != open[seq] {
					t.Fatalf("after filling %d-%d: holds %d is %v; open: %s", from, to, seq, g.holds(seq), g.text())
				}
			}
		}
	}
}

// TestManyGapsAreFilledInTime: an outbox that was restored with rows waiting for one subscription among released ones has a gap
// beside each of them. All are probed within one round of the relay, which shows no life meanwhile.
func TestManyGapsAreFilledInTime(t *testing.T) {
	t.Parallel()
	const many = 100_000
	rows := roaring64.New()
	for seq := uint64(2); seq <= 2*many; seq += 2 {
		rows.Add(seq)
	}
	began := time.Now()
	g := gapsBelow(2*many, roaring64.New(), rows, began, "")
	for left := g.probe(began); len(left) > 0; left = left[min(probeMost, len(left)):] {
		for _, asked := range g.within(left[:min(probeMost, len(left))], began) {
			g.fill(asked.From, asked.To)
		}
	}
	if took := time.Since(began); !g.empty() || took > 4*time.Second {
		t.Errorf("%d gaps took %v, %d are left", many, took, len(g.open))
	}
}
