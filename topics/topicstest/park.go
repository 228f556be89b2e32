package topicstest

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/orchestrator/txn"
	"github.com/twostep-mq/twostep/topics"
)

func testPark(t *testing.T, h Harness) {
	t.Run("all of the message comes back", func(t *testing.T) {
		d := h.Open(t)
		p := parked(uidA, "k ö'", topics.ParkedWaiting, 123)
		p.Attempts, p.Reason = 3, "no \"money\"\n"
		m := &p.Message
		m.GID, m.BranchID, m.Op, m.Prev = "transfer:1", "01", "action", newID()
		m.Outbox, m.Seq, m.ContentType = newID(), 17, "text/plain"
		m.Payload = []byte{0, 0xff, '\''}
		m.Headers = map[string]string{"traceparent": "00-1", "x": "ü"}
		bare := parked(uidA, "", topics.ParkedDead, 0)
		bare.Message.Payload, bare.Message.Time = nil, time.Time{}
		park(t, d, p, bare)

		list, err := d.Store.Parked(testContext(t), topics.ParkedQuery{})
		must(t, err)
		if len(list) != 2 || list[0].Seq == 0 || list[1].Seq <= list[0].Seq {
			t.Fatalf("parked: %+v", list)
		}
		samePark(t, list[0], p)
		samePark(t, list[1], bare)
		inTx(t, d, func(ctx context.Context, tx topics.StoreTx) {
			locked, err := tx.Lock(ctx, uidA, m.ID)
			must(t, err)
			samePark(t, locked, p)
		})
	})

	t.Run("its barrier row says parked", func(t *testing.T) {
		d := h.Open(t)
		for _, as := range []txn.Outcome{txn.Parked, txn.Success} { // whichever it was claimed with
			p := parked(uidA, "", topics.ParkedWaiting, 0)
			inTx(t, d, func(ctx context.Context, tx topics.StoreTx) {
				_, err := tx.Claim(ctx, uidA, []string{p.Message.ID}, as)
				must(t, err)
				must(t, tx.Park(ctx, []topics.Parked{p}))
			})
			wantOutcomes(t, stands(t, d, uidA, p.Message.ID), txn.Parked)
		}
	})

	t.Run("what was executed is not parked", func(t *testing.T) {
		if h.RawCommitStands {
			t.Skip("on this store a handler may have committed the row")
		}
		d := h.Open(t)
		p := parked(uidA, "", topics.ParkedWaiting, 0)
		claim(t, d, uidA, txn.Success, p.Message.ID)
		ctx := testContext(t)
		tx, err := d.Store.Begin(ctx)
		must(t, err)
		defer func() { _ = tx.Rollback() }()
		_, err = tx.Claim(ctx, uidA, []string{p.Message.ID}, txn.Parked)
		must(t, err)
		if err := tx.Park(ctx, []topics.Parked{p}); !errors.Is(err, topics.ErrConflict) {
			t.Fatalf("%v, want ErrConflict", err)
		}
	})

	t.Run("settled: the row goes, the outcome stays", func(t *testing.T) {
		d := h.Open(t)
		effects(t, d)
		for _, as := range []txn.Outcome{txn.Success, txn.Dropped, txn.Failure} {
			p := parked(uidA, "k", topics.ParkedDead, 0)
			other := parked(uidB, "k", topics.ParkedDead, 0)
			other.Message.ID = p.Message.ID
			park(t, d, p, other)
			inTx(t, d, func(ctx context.Context, tx topics.StoreTx) {
				_, err := tx.Lock(ctx, uidA, p.Message.ID)
				must(t, err)
				must(t, addEffect(ctx, tx, string(as)))
				must(t, tx.Settle(ctx, uidA, p.Message.ID, as))
			})
			wantOutcomes(t, stands(t, d, uidA, p.Message.ID), as)
			wantOutcomes(t, stands(t, d, uidB, p.Message.ID), txn.Parked)
		}
		if n := countEffects(t, d); n != 3 {
			t.Errorf("%d effects", n)
		}
		list, err := d.Store.Parked(testContext(t), topics.ParkedQuery{})
		must(t, err)
		if len(list) != 3 || list[0].Subscription != uidB {
			t.Errorf("left: %+v", list)
		}
	})

	t.Run("gone is told", func(t *testing.T) {
		d := h.Open(t)
		p := parked(uidA, "", topics.ParkedWaiting, 0)
		inTx(t, d, func(ctx context.Context, tx topics.StoreTx) {
			_, lockErr := tx.Lock(ctx, uidA, p.Message.ID)
			for what, err := range map[string]error{
				"lock":   lockErr,
				"update": tx.Update(ctx, p),
				"settle": tx.Settle(ctx, uidA, p.Message.ID, txn.Success),
			} {
				if !errors.Is(err, topics.ErrNotParked) {
					t.Errorf("%s: %v, want ErrNotParked", what, err)
				}
			}
		})
		wantOutcomes(t, stands(t, d, uidA, p.Message.ID), "")
	})

	t.Run("updated", func(t *testing.T) {
		d := h.Open(t)
		p := parked(uidA, "k", topics.ParkedWaiting, 0)
		park(t, d, p)
		p.State, p.Attempts, p.NextAt, p.Reason = topics.ParkedDead, 9, time.Time{}, "over"
		inTx(t, d, func(ctx context.Context, tx topics.StoreTx) {
			changed := p
			changed.Message.Payload, changed.Message.Key = []byte("not written"), "nor this"
			must(t, tx.Update(ctx, changed))
		})
		list, err := d.Store.Parked(testContext(t), topics.ParkedQuery{ID: p.Message.ID})
		must(t, err)
		samePark(t, list[0], p)
	})

	t.Run("keys", func(t *testing.T) {
		d := h.Open(t)
		park(t, d, parked(uidA, "waiting", topics.ParkedWaiting, 0), parked(uidA, "dead", topics.ParkedDead, 0),
			parked(uidA, "", topics.ParkedWaiting, 0), parked(uidB, "other", topics.ParkedWaiting, 0))
		inTx(t, d, func(ctx context.Context, tx topics.StoreTx) {
			keys := []string{"waiting", "dead", "other", "none", "", "Waiting", "waiting "}
			for dead, want := range map[bool]map[string]bool{
				true:  {"waiting": true, "dead": true},
				false: {"waiting": true},
			} {
				got, err := tx.ParkedKeys(ctx, uidA, keys, dead)
				must(t, err)
				for _, key := range keys {
					if got[key] != want[key] {
						t.Errorf("dead %v: key %q: %v", dead, key, got[key])
					}
				}
			}
		})
	})

	t.Run("listed by subscription, state, id and page", func(t *testing.T) {
		d := h.Open(t)
		ps := []topics.Parked{
			parked(uidA, "", topics.ParkedWaiting, 0), parked(uidB, "", topics.ParkedDead, 0),
			parked(uidA, "", topics.ParkedDead, 0), parked(uidA, "", topics.ParkedHeld, 0),
		}
		park(t, d, ps...)
		list := func(q topics.ParkedQuery) (at []int) {
			got, err := d.Store.Parked(testContext(t), q)
			must(t, err)
			for _, p := range got {
				for i := range ps {
					if ps[i].Message.ID == p.Message.ID {
						at = append(at, i)
					}
				}
			}
			return at
		}
		all, err := d.Store.Parked(testContext(t), topics.ParkedQuery{})
		must(t, err)
		for _, c := range []struct {
			q    topics.ParkedQuery
			want []int
		}{
			{topics.ParkedQuery{}, []int{0, 1, 2, 3}},
			{topics.ParkedQuery{Subscription: uidA}, []int{0, 2, 3}},
			{topics.ParkedQuery{State: topics.ParkedDead}, []int{1, 2}},
			{topics.ParkedQuery{Subscription: uidA, State: topics.ParkedDead}, []int{2}},
			{topics.ParkedQuery{ID: ps[3].Message.ID}, []int{3}},
			{topics.ParkedQuery{Limit: 2}, []int{0, 1}},
			{topics.ParkedQuery{Limit: 2, After: all[1].Seq}, []int{2, 3}},
		} {
			if got := list(c.q); !reflect.DeepEqual(got, c.want) {
				t.Errorf("%+v: %v, want %v", c.q, got, c.want)
			}
		}
	})
}

// samePark compares all but Seq.
func samePark(t *testing.T, got, want topics.Parked) {
	t.Helper()
	want.Seq = got.Seq
	for _, pair := range [][2]*time.Time{{&got.NextAt, &want.NextAt}, {&got.ParkedAt, &want.ParkedAt}, {&got.Message.Time, &want.Message.Time}} {
		if !pair[0].Equal(*pair[1]) {
			t.Errorf("time %v, want %v", pair[0], pair[1])
		}
		*pair[0] = *pair[1]
	}
	if len(got.Message.Payload) == 0 && len(want.Message.Payload) == 0 {
		got.Message.Payload = want.Message.Payload
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}
