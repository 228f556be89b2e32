package outboxtest

import (
	"errors"
	"math"
	"reflect"
	"testing"

	"github.com/twostep-mq/twostep/outbox"
)

const (
	uidA = "019e0000-0000-7000-9000-00000000000a"
	uidB = "019e0000-0000-7000-9000-00000000000b"
)

func wantError(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, want %v", err, want)
	}
}

func testCheckpoint(t *testing.T, h Harness) {
	t.Run("all of it comes back", func(t *testing.T) {
		d := h.Open(t)
		ctx := testContext(t)
		publishN(t, d, 3)
		rows := scanAll(t, d)
		l := take(t, d, "r")
		before, err := d.Relay.Load(ctx)
		must(t, err)
		if len(before.Bits) != 0 || len(before.Topics) != 0 || before.Head.Owner != "" || before.Head.Version != 0 {
			t.Fatalf("a new outbox has recorded %+v", before)
		}
		bits := []outbox.Bits{
			{Confirmer: "broker", Bitmap: []byte{0, 1, 0xff, 0}, Cursor: math.MaxInt64, Digest: math.MaxUint64},
			{Confirmer: uidA, Bitmap: []byte("x"), Digest: 1 << 63, Subscription: outbox.RegistrySubscription{UID: uidA, Topic: "bank.t", Name: "accounts", Created: 1}},
			{Confirmer: uidB, Bitmap: []byte{}, Subscription: outbox.RegistrySubscription{UID: uidB, Topic: "bank.t", Name: "audit", Created: 2, Removed: true}},
		}
		topics := []outbox.RegistryTopic{
			{Name: "bank.t", TopicSettings: outbox.TopicSettings{Delivery: outbox.DeliveryConfirmed, NoSubscribers: outbox.NoSubscribersHold, Keyed: true}, Version: 3},
			{Name: "bank.u", TopicSettings: outbox.TopicSettings{Delivery: outbox.DeliveryBroker, NoSubscribers: outbox.NoSubscribersDrop}, Version: 4, Deleted: true},
		}
		next, err := d.Relay.Commit(ctx, l, outbox.Checkpoint{
			Server: before.Server, Release: []outbox.RowID{{Seq: rows[1].Seq, ID: rows[1].ID}},
			Bits: bits, Head: &outbox.RegistryHead{Owner: uidB, Version: 7}, Topics: topics,
		})
		must(t, err)
		if next.Owner != "r" || next.Epoch != l.Epoch || next.Beat <= l.Beat {
			t.Errorf("lease %+v after %+v: a checkpoint is a beat", next, l)
		}
		after, err := d.Another(t).Relay.Load(ctx)
		must(t, err)
		if after.UUID != before.UUID || after.Head.Owner != uidB || after.Head.Version != 7 {
			t.Errorf("loaded %+v", after)
		}
		if !reflect.DeepEqual(after.Topics, topics) {
			t.Errorf("topics %+v, want %+v", after.Topics, topics)
		}
		sameBits(t, after.Bits, bits)
		if got := ids(scanAll(t, d)); !reflect.DeepEqual(got, []string{rows[0].ID, rows[2].ID}) {
			t.Errorf("rows %v", got)
		}

		// The changed ones are written over, the others stay.
		bits[0].Bitmap, bits[0].Cursor, bits[0].Digest = []byte("more"), 12, 5
		bits[1].Subscription.Removed = true
		topics[0].Deleted = true
		_, err = d.Relay.Commit(ctx, next, outbox.Checkpoint{Server: before.Server, Bits: bits[:2], Topics: topics[:1]})
		must(t, err)
		after, err = d.Relay.Load(ctx)
		must(t, err)
		sameBits(t, after.Bits, bits)
		if !reflect.DeepEqual(after.Topics, topics) || after.Head.Version != 7 {
			t.Errorf("loaded %+v", after)
		}
	})

	t.Run("a delete that counts short writes nothing", func(t *testing.T) {
		for name, spoil := range map[string]func(rows []outbox.Row) outbox.RowID{
			"no such row": func(rows []outbox.Row) outbox.RowID { return outbox.RowID{Seq: rows[1].Seq + 1000, ID: rows[1].ID} },
			"another id":  func(rows []outbox.Row) outbox.RowID { return outbox.RowID{Seq: rows[1].Seq, ID: rows[0].ID} },
			"upper-case id": func(rows []outbox.Row) outbox.RowID {
				return outbox.RowID{Seq: rows[1].Seq, ID: "019E" + rows[1].ID[4:]}
			},
			"id with a prefix": func(rows []outbox.Row) outbox.RowID { return outbox.RowID{Seq: rows[1].Seq, ID: rows[1].ID + " "} },
		} {
			d := h.Open(t)
			ctx := testContext(t)
			publishN(t, d, 2)
			rows := scanAll(t, d)
			l := take(t, d, "r")
			loaded, err := d.Relay.Load(ctx)
			must(t, err)
			_, err = d.Relay.Commit(ctx, l, outbox.Checkpoint{
				Server: loaded.Server, Release: []outbox.RowID{{Seq: rows[0].Seq, ID: rows[0].ID}, spoil(rows)},
				Bits: []outbox.Bits{{Confirmer: "broker", Bitmap: []byte("x")}}, Head: &outbox.RegistryHead{Version: 9},
			})
			if !errors.Is(err, outbox.ErrShortDelete) {
				t.Errorf("%s: %v, want ErrShortDelete", name, err)
			}
			after, err := d.Relay.Load(ctx)
			must(t, err)
			if len(scanAll(t, d)) != 2 || len(after.Bits) != 0 || after.Head.Version != 0 {
				t.Errorf("%s: something was written: %+v", name, after)
			}
			if lease, err := d.Relay.Lease(ctx); err != nil || lease != l {
				t.Errorf("%s: lease %+v (%v), want %+v", name, lease, err, l)
			}
		}
	})

	t.Run("the memory of another server writes nothing", func(t *testing.T) {
		d := h.Open(t)
		publishN(t, d, 1)
		row := scanAll(t, d)[0]
		_, err := d.Relay.Commit(testContext(t), take(t, d, "r"), outbox.Checkpoint{Server: "another", Release: []outbox.RowID{{Seq: row.Seq, ID: row.ID}}})
		wantError(t, err, outbox.ErrServerChanged)
		if len(scanAll(t, d)) != 1 {
			t.Fatal("the row was released")
		}
	})

	t.Run("many rows", func(t *testing.T) {
		d := h.Open(t)
		publishN(t, d, 2_000)
		rows := scanAll(t, d)
		l := take(t, d, "r")
		var released []outbox.Row
		for i, row := range rows {
			if i%3 != 0 {
				released = append(released, row)
			}
		}
		release(t, d, l, released...)
		if n := len(scanAll(t, d)); n != len(rows)-len(released) {
			t.Fatalf("%d rows are left, want %d", n, len(rows)-len(released))
		}
	})
}

// sameBits compares without looking at the order.
func sameBits(t *testing.T, got, want []outbox.Bits) {
	t.Helper()
	byName := map[string]outbox.Bits{}
	for _, b := range got {
		byName[b.Confirmer] = b
	}
	if len(got) != len(want) {
		t.Errorf("%d confirmers, want %d", len(got), len(want))
	}
	for _, b := range want {
		g := byName[b.Confirmer]
		if string(g.Bitmap) != string(b.Bitmap) {
			t.Errorf("%s: bitmap %x, want %x", b.Confirmer, g.Bitmap, b.Bitmap)
		}
		g.Bitmap = b.Bitmap
		if !reflect.DeepEqual(g, b) {
			t.Errorf("got %+v, want %+v", g, b)
		}
	}
}
