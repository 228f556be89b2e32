package outbox

import (
	"testing"

	"github.com/RoaringBitmap/roaring/v2/roaring64"
)

func windowOf(rows ...*Row) *window {
	w := newWindow()
	for _, r := range rows {
		w.add(r)
	}
	return w
}

func confirmAll(w *window, c *confirmer, seqs ...int64) {
	for _, seq := range seqs {
		c.confirm(seq, w.ref(seq))
	}
}

func encoded(t *testing.T, c *confirmer, name string, cursor int64) Bits {
	t.Helper()
	b, err := c.without(roaring64.New(), c.sum, name, cursor)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestConfirmerComesBackFromTheTables(t *testing.T) {
	t.Parallel()
	rows := []*Row{testRow(1, "t", ""), testRow(2, "t", ""), testRow(3, "t", "")}
	w := windowOf(rows...)
	sub := newConfirmer(RegistrySubscription{UID: "u", Topic: "t"})
	confirmAll(w, sub, 1, 3)
	if sub.confirm(3, w.ref(3)) {
		t.Error("a second word on a row counts again")
	}
	got := newConfirmer(sub.sub)
	genuine, err := got.load(encoded(t, sub, "u", 0), windowOf(rows...))
	if err != nil || !genuine {
		t.Fatalf("genuine %v, %v", genuine, err)
	}
	if !got.has(1) || got.has(2) || !got.has(3) || got.sum != sub.sum || got.dirty {
		t.Errorf("loaded %v with sum %x", got.bits, got.sum)
	}
	if _, err := got.load(Bits{Confirmer: "u", Bitmap: []byte("no bitmap")}, w); err == nil {
		t.Error("a broken bitmap was taken")
	}
}

// TestConfirmerForgetsBitsOfOtherRows: the same numbers, other messages.
func TestConfirmerForgetsBitsOfOtherRows(t *testing.T) {
	t.Parallel()
	old := windowOf(testRow(1, "t", ""), testRow(2, "t", ""))
	again := windowOf(testRow(1, "t", ""), testRow(2, "t", ""))

	sub := newConfirmer(RegistrySubscription{UID: "u", Topic: "t"})
	confirmAll(old, sub, 1, 2)
	got := newConfirmer(sub.sub)
	if genuine, err := got.load(encoded(t, sub, "u", 0), again); err != nil || genuine {
		t.Fatalf("genuine %v, %v", genuine, err)
	}
	if got.has(1) || got.has(2) || got.sum != 0 || !got.dirty {
		t.Errorf("kept %v with sum %x", got.bits, got.sum)
	}

	b := newConfirmer(RegistrySubscription{})
	b.bits.Add(3) // no such row
	confirmAll(old, b, 1)
	got = newConfirmer(RegistrySubscription{})
	if genuine, err := got.load(encoded(t, b, BrokerConfirmer, 3), again); err != nil || genuine {
		t.Fatalf("genuine %v, %v", genuine, err)
	}
	if got.has(1) {
		t.Error("the broker's word on an old row counts for a new one")
	}
}

// TestConfirmerOfReleasedRows: the broker keeps their bits, which then say "no such row"; a subscription's go with the rows.
func TestConfirmerOfReleasedRows(t *testing.T) {
	t.Parallel()
	w := windowOf(testRow(1, "t", ""), testRow(2, "t", ""))
	for name, keeps := range map[string]bool{BrokerConfirmer: true, "u": false} {
		c := newConfirmer(RegistrySubscription{})
		confirmAll(w, c, 1, 2)
		b, err := c.without(roaring64.BitmapOf(1), idHash(w.ref(2).id), name, 2)
		if err != nil {
			t.Fatal(err)
		}
		left := windowOf(testRowOf(w, 2))
		got := newConfirmer(RegistrySubscription{})
		if genuine, err := got.load(b, left); err != nil || !genuine {
			t.Fatalf("%s: genuine %v, %v", name, genuine, err)
		}
		if got.has(1) != keeps || !got.has(2) {
			t.Errorf("%s: loaded %v", name, got.bits)
		}
		if !c.has(1) {
			t.Errorf("%s: encoding changed the confirmer", name)
		}
	}
}

func testRowOf(w *window, seq int64) *Row {
	r := testRow(seq, "t", "")
	r.ID = w.ref(seq).id.String()
	return r
}
