package topicstest

import (
	"context"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/orchestrator/txn"
	"github.com/twostep-mq/twostep/topics"
)

// dueCase is a list of parked messages in order of parking, and which of them may run at at(0).
type dueCase struct {
	name   string
	parked []topics.Parked
	// due and next with a dead letter in the way of its key, and passed over. next: milliseconds; noNext: nothing waits.
	due, dueContinue   []int
	next, nextContinue int64
}

const noNext = -1

func dueCases() []dueCase {
	waiting := func(key string, next int64) topics.Parked { return parked(uidA, key, topics.ParkedWaiting, next) }
	held := func(key string) topics.Parked { return parked(uidA, key, topics.ParkedHeld, 0) }
	dead := func(key string) topics.Parked { return parked(uidA, key, topics.ParkedDead, 0) }
	list := func(ps ...topics.Parked) []topics.Parked { return ps }
	return []dueCase{
		{"nothing", nil, nil, nil, noNext, noNext},
		{"a waiting one that is due", list(waiting("k", 0)), []int{0}, []int{0}, noNext, noNext},
		{"a waiting one that is not", list(waiting("k", 7)), nil, nil, 7, 7},
		{"held behind a waiting one", list(waiting("k", 7), held("k"), held("k")), nil, nil, 7, 7},
		{"held, and nothing before it is left", list(held("k"), held("k")), []int{0}, []int{0}, noNext, noNext},
		{"only the first of a key", list(waiting("k", -9), waiting("k", -99)), []int{0}, []int{0}, noNext, noNext},
		{"the first of a key is not due, the second would be", list(waiting("k", 5), waiting("k", -9)), nil, nil, 5, 5},
		{"keys by themselves, in order of parking", list(waiting("b", -1), waiting("a", -2), waiting("c", 3), held("a")), []int{0, 1}, []int{0, 1}, 3, 3},
		{"without a key each by itself", list(waiting("", -1), waiting("", 9), waiting("", -3), waiting("", 4)), []int{0, 2}, []int{0, 2}, 4, 4},
		{"a dead letter in the way", list(dead("k"), held("k")), nil, []int{1}, noNext, noNext},
		{"a dead letter before a waiting one", list(dead("k"), waiting("k", 6)), nil, nil, noNext, 6},
		{"a dead letter behind", list(waiting("k", -1), dead("k"), held("k")), []int{0}, []int{0}, noNext, noNext},
		{"dead letters without a key stand in nobody's way", list(dead(""), waiting("", -1), dead("")), []int{1}, []int{1}, noNext, noNext},
		{"only dead letters", list(dead("k"), dead("")), nil, nil, noNext, noNext},
		{"another subscription's do not count", list(parked(uidB, "k", topics.ParkedWaiting, 9), parked(uidB, "l", topics.ParkedDead, 0),
			held("k"), held("l"), parked(uidB, "", topics.ParkedWaiting, -1)), []int{2, 3}, []int{2, 3}, noNext, noNext},
		{"keys differ in case and spaces", list(waiting("k", 9), held("K"), held("k ")), []int{1, 2}, []int{1, 2}, 9, 9},
	}
}

func testDue(t *testing.T, h Harness) {
	for _, c := range dueCases() {
		t.Run(c.name, func(t *testing.T) {
			d := h.Open(t)
			park(t, d, c.parked...)
			for hold, want := range map[bool]struct {
				due  []int
				next int64
			}{true: {c.due, c.next}, false: {c.dueContinue, c.nextContinue}} {
				got, next := due(t, d, c.parked, hold, 100)
				if !reflect.DeepEqual(got, want.due) {
					t.Errorf("hold %v: due %v, want %v", hold, got, want.due)
				}
				if want.next == noNext && !next.IsZero() || want.next != noNext && !next.Equal(at(want.next)) {
					t.Errorf("hold %v: next %v, want %v", hold, next, want.next)
				}
			}
		})
	}

	t.Run("a limit asks to be asked again at once", func(t *testing.T) {
		d := h.Open(t)
		ps := []topics.Parked{parked(uidA, "a", topics.ParkedWaiting, 0), parked(uidA, "", topics.ParkedWaiting, 0), parked(uidA, "b", topics.ParkedHeld, 0)}
		park(t, d, ps...)
		got, next := due(t, d, ps, true, 2)
		if !reflect.DeepEqual(got, []int{0, 1}) || next.IsZero() || next.After(at(0)) {
			t.Errorf("due %v, next %v", got, next)
		}
		if got, next := due(t, d, ps, true, 3); len(got) != 3 || !next.IsZero() {
			t.Errorf("due %v, next %v", got, next)
		}
	})

	t.Run("the successor is due when its predecessor has ended", func(t *testing.T) {
		d := h.Open(t)
		ps := []topics.Parked{parked(uidA, "k", topics.ParkedWaiting, 0), parked(uidA, "k", topics.ParkedHeld, 0), parked(uidA, "k", topics.ParkedHeld, 0)}
		park(t, d, ps...)
		for i := range ps {
			got, _ := due(t, d, ps, true, 10)
			if !reflect.DeepEqual(got, []int{i}) {
				t.Fatalf("due %v, want %d", got, i)
			}
			inTx(t, d, func(ctx context.Context, tx topics.StoreTx) {
				_, err := tx.Lock(ctx, uidA, ps[i].Message.ID)
				must(t, err)
				must(t, tx.Settle(ctx, uidA, ps[i].Message.ID, txn.Success))
			})
		}
	})

	t.Run("thousands behind one key cost little", func(t *testing.T) {
		d := h.Open(t)
		ps := []topics.Parked{parked(uidA, "hot", topics.ParkedWaiting, 9)}
		for range 3000 {
			ps = append(ps, parked(uidA, "hot", topics.ParkedHeld, 0))
		}
		for i := range 50 {
			ps = append(ps, parked(uidA, fmt.Sprint("cold", i), topics.ParkedHeld, 0))
		}
		inTx(t, d, func(ctx context.Context, tx topics.StoreTx) {
			for _, p := range ps {
				_, err := tx.Claim(ctx, uidA, []string{p.Message.ID}, txn.Parked)
				must(t, err)
			}
			must(t, tx.Park(ctx, ps))
		})
		start := time.Now()
		got, next := due(t, d, ps, true, 100)
		if len(got) != 50 || !next.Equal(at(9)) {
			t.Errorf("%d due, next %v", len(got), next)
		}
		// Looking at every row takes far longer than a second only where it is quadratic.
		if took := time.Since(start); took > time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// due asks for uidA's at at(0) and tells which of ps they are.
func due(t *testing.T, d Database, ps []topics.Parked, hold bool, limit int) (which []int, next time.Time) {
	t.Helper()
	got, next, err := d.Store.Due(testContext(t), uidA, at(0), hold, limit)
	must(t, err)
	index := make(map[string]int, len(ps))
	for i := range ps {
		index[ps[i].Subscription+ps[i].Message.ID] = i
	}
	for _, p := range got {
		i, ok := index[p.Subscription+p.Message.ID]
		if !ok {
			t.Fatalf("due: %+v was never parked", p)
		}
		which = append(which, i)
	}
	return which, next
}
