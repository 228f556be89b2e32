package outbox

import (
	"slices"
	"testing"
	"time"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"github.com/twostep-mq/twostep/broker"
)

func at(stream string, partition int, offset uint64) broker.Position {
	return broker.Position{Stream: stream, Partition: partition, Offset: offset}
}

// TestMarkIsPassed: a mark is passed when no row of it can come from the topic any more.
func TestMarkIsPassed(t *testing.T) {
	t.Parallel()
	mk := newMark(roaring64.New())
	mk.add(1, at("s", 0, 5))
	mk.add(2, at("s", 1, 3))
	mk.add(3, at("s", 0, 4)) // acknowledged late: the place stays behind all of them
	for name, c := range map[string]struct {
		ps   broker.Positions
		want bool
	}{
		"behind in one partition": {broker.Positions{Stream: "s", First: []uint64{1, 1}, Floor: map[string][]uint64{"u": {5, 2}}}, false},
		"passed":                  {broker.Positions{Stream: "s", First: []uint64{1, 1}, Floor: map[string][]uint64{"u": {5, 3}}}, true},
		"nothing settled":         {broker.Positions{Stream: "s", First: []uint64{1, 1}, Floor: map[string][]uint64{"u": {0, 0}}}, false},
		"dropped by the broker":   {broker.Positions{Stream: "s", First: []uint64{6, 4}, Floor: map[string][]uint64{"u": {0, 0}}}, true},
		"no reader":               {broker.Positions{Stream: "s", First: []uint64{1, 1}, Floor: map[string][]uint64{}}, true},
		"another stream":          {broker.Positions{Stream: "s2", First: []uint64{1, 1}, Floor: map[string][]uint64{"u": {0, 0}}}, true},
	} {
		if got := mk.passedBy("u", &c.ps); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestMarkTakesNoRowsOnceSomebodyWasLookedAt(t *testing.T) {
	t.Parallel()
	mk := newMark(roaring64.New())
	mk.add(1, at("s", 0, 5))
	if !mk.takes(at("s", 0, 6)) || mk.takes(at("s2", 0, 6)) {
		t.Error("a mark is of one stream")
	}
	mk.passed["u"] = true
	if mk.takes(at("s", 0, 6)) {
		t.Error("a row was added that nobody would look for at u")
	}
	if newMark(roaring64.BitmapOf(1)).takes(at("s", 0, 6)) {
		t.Error("a mark whose place is unknown takes rows")
	}
}

// TestMarksMerge: nobody counts as looked at for rows he was not looked at for.
func TestMarksMerge(t *testing.T) {
	t.Parallel()
	a, b, other, one := newMark(roaring64.New()), newMark(roaring64.New()), newMark(roaring64.New()), newMark(roaring64.New())
	a.add(1, at("s", 0, 5))
	a.passed["u"], a.passed["v"] = true, true
	b.add(2, at("s", 1, 7))
	b.passed["v"] = true
	other.add(3, at("s2", 0, 1))
	one.add(4, at("s", 0, 9))
	one.only = "w"
	got := mergeMarks([]*mark{a, b, other, one})
	if len(got) != 3 || got[0] != a {
		t.Fatalf("%d marks", len(got))
	}
	if !a.rows.Contains(1) || !a.rows.Contains(2) || !slices.Equal(a.offsets, []uint64{5, 7}) || a.passed["u"] || !a.passed["v"] {
		t.Errorf("merged: %+v", a)
	}
}

func TestResendLowestFirst(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	backoff := func(n int) time.Duration { return time.Duration(n) * time.Second }
	r := newResend()
	r.due.AddMany([]uint64{4, 6, 8, 10})
	if got := r.next(now, 10, 3, backoff); !slices.Equal(got, []int64{4, 6, 8}) {
		t.Errorf("at first %v", got)
	}
	for _, seq := range []int64{4, 6, 8} {
		r.sent[seq] = sentAgain{at: now, times: 1}
	}
	if got := r.next(now, 10, 3, backoff); got != nil {
		t.Errorf("too early: %v", got)
	}
	// A predecessor is found late: it does not wait for the answers of its successors, which wait for it.
	r.due.Add(2)
	if got := r.next(now, 10, 3, backoff); !slices.Equal(got, []int64{2}) {
		t.Errorf("a late predecessor: %v", got)
	}
	r.sent[2] = sentAgain{at: now, times: 2}
	if got := r.next(now.Add(time.Second), 10, 3, backoff); !slices.Equal(got, []int64{4, 6}) {
		t.Errorf("after the backoff: %v", got)
	}
	if got := r.next(now.Add(time.Second), 1, 3, backoff); !slices.Equal(got, []int64{4}) {
		t.Errorf("one at a time: %v", got)
	}
	r.settle(2)
	r.settle(4)
	if got := r.next(now, 10, 3, backoff); !slices.Equal(got, []int64{10}) {
		t.Errorf("after two receipts: %v", got)
	}
	r.fullUntil = now.Add(time.Second)
	if got := r.next(now, 10, 3, backoff); got != nil {
		t.Errorf("the inbox was full: %v", got)
	}
}
