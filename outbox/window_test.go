package outbox

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/twostep-mq/twostep/broker"
)

func testRow(seq int64, topic, key string) *Row {
	return &Row{Seq: seq, Message: broker.Message{ID: uuid.NewString(), Topic: topic, Key: key}}
}

// chainOf walks a key's chain from its tail.
func chainOf(w *window, topic, key string) []int64 {
	var out []int64
	for seq := w.tails[w.hash(topic, key)]; seq != 0; seq = w.chain(seq).prev {
		out = append([]int64{seq}, out...)
	}
	return out
}

func TestWindowChainsAreByRowNumberWhateverOrderRowsAppearIn(t *testing.T) {
	t.Parallel()
	w := newWindow()
	for _, seq := range []int64{5, 9, 2, 7, 300, 1} {
		if !w.add(testRow(seq, "pay", "k")) {
			t.Fatalf("row %d was not taken", seq)
		}
	}
	w.add(testRow(3, "pay", ""))
	w.add(testRow(4, "pay", "other"))
	w.add(testRow(6, "refund", "k")) // another topic, another order
	if got, want := chainOf(w, "pay", "k"), []int64{1, 2, 5, 7, 9, 300}; !slices.Equal(got, want) {
		t.Errorf("chain %v, want %v", got, want)
	}
	if got := chainOf(w, "refund", "k"); !slices.Equal(got, []int64{6}) {
		t.Errorf("chain of the other topic: %v", got)
	}
	for _, seq := range []int64{5, 300, 1} { // the middle, the tail, the head
		w.remove(seq)
	}
	if got, want := chainOf(w, "pay", "k"), []int64{2, 7, 9}; !slices.Equal(got, want) {
		t.Errorf("chain %v, want %v", got, want)
	}
	if at := w.chain(2); at.prev != 0 || at.next != 7 {
		t.Errorf("head: %+v", at)
	}
	if w.chunks[300/chunkRows] != nil {
		t.Error("a chunk without rows was kept")
	}
}

func TestWindowRefusesWhatNoReceiptCouldName(t *testing.T) {
	t.Parallel()
	w := newWindow()
	if w.add(&Row{Seq: 1, Message: broker.Message{ID: "no uuid", Topic: "pay"}}) {
		t.Error("a row without a UUID was taken")
	}
	if !w.add(testRow(1, "pay", "")) || w.add(testRow(1, "pay", "")) {
		t.Error("a row must be taken once")
	}
	w.remove(77) // not there: nothing happens
	if got := w.rows.GetCardinality(); got != 1 {
		t.Errorf("%d rows", got)
	}
}

// TestWindowAgainstANaiveOne adds and removes at random and compares everything with plain lists.
func TestWindowAgainstANaiveOne(t *testing.T) {
	t.Parallel()
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 1))
		w := newWindow()
		naive := map[int64]*Row{}
		for range 600 {
			seq := 1 + rng.Int64N(400)
			if naive[seq] != nil {
				w.remove(seq)
				delete(naive, seq)
				continue
			}
			row := testRow(seq, fmt.Sprint("t", rng.IntN(2)), []string{"", "a", "b"}[rng.IntN(3)])
			w.add(row)
			naive[seq] = row
		}
		chains := map[string][]int64{}
		for seq, row := range naive {
			if ref := w.ref(seq); ref == nil || ref.id.String() != row.ID || w.topics[ref.topic].name != row.Topic {
				t.Fatalf("seed %d: row %d: %+v", seed, seq, ref)
			}
			if row.Key != "" {
				chains[row.Topic+"/"+row.Key] = append(chains[row.Topic+"/"+row.Key], seq)
			}
			if set := w.topicSet(row.Topic); !set.Contains(uint64(seq)) {
				t.Fatalf("seed %d: row %d is not in the set of %s", seed, seq, row.Topic)
			}
		}
		if int(w.rows.GetCardinality()) != len(naive) {
			t.Fatalf("seed %d: %d rows, want %d", seed, w.rows.GetCardinality(), len(naive))
		}
		if len(w.tails) != len(chains) {
			t.Fatalf("seed %d: %d chains, want %d", seed, len(w.tails), len(chains))
		}
		for name, want := range chains {
			slices.Sort(want)
			if got := chainOf(w, name[:2], name[3:]); !slices.Equal(got, want) {
				t.Fatalf("seed %d: chain %s: %v, want %v", seed, name, got, want)
			}
		}
	}
}
