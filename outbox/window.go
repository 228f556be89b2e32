package outbox

import (
	"hash/maphash"

	"github.com/RoaringBitmap/roaring/v2/roaring64"
	"github.com/google/uuid"
)

// window is what a relay knows of the unreleased rows of its outbox: id, topic, age and the chain of each ordering key. It
// holds no payloads: a waiting row costs some fifty bytes.
type window struct {
	rows   *roaring64.Bitmap            // row numbers of all unreleased rows
	topics []topicRows                  // by topic index
	index  map[string]int32             // topic name → index
	chunks map[int64]*[chunkRows]rowRef // by row number / chunkRows
	counts map[int64]int                // rows in the chunk
	tails  map[uint64]int64             // key hash → the key's last unreleased row
	seed   maphash.Seed
}

type topicRows struct {
	name string
	rows *roaring64.Bitmap
}

const chunkRows = 128

type rowRef struct {
	id         uuid.UUID
	key        uint64 // hash of topic and key; 0: no order
	prev, next int64  // neighbours in the key's chain of unreleased rows; 0: none
	topic      int32
	madeAt     uint32 // Unix seconds
}

func newWindow() *window {
	return &window{
		rows: roaring64.New(), index: map[string]int32{}, chunks: map[int64]*[chunkRows]rowRef{},
		counts: map[int64]int{}, tails: map[uint64]int64{}, seed: maphash.MakeSeed(),
	}
}

func (w *window) has(seq int64) bool { return w.rows.Contains(uint64(seq)) }

func (w *window) ref(seq int64) *rowRef {
	if c := w.chunks[seq/chunkRows]; c != nil && w.has(seq) {
		return &c[seq%chunkRows]
	}
	return nil
}

// add takes a row in; false if it was known, or if its id is no UUID and no receipt could ever name it.
func (w *window) add(r *Row) bool {
	id, err := uuid.Parse(r.ID)
	if err != nil || w.has(r.Seq) {
		return false
	}
	c := w.chunks[r.Seq/chunkRows]
	if c == nil {
		c = new([chunkRows]rowRef)
		w.chunks[r.Seq/chunkRows] = c
	}
	w.counts[r.Seq/chunkRows]++
	ref := &c[r.Seq%chunkRows]
	*ref = rowRef{id: id, topic: w.topicIndex(r.Topic), madeAt: uint32(max(0, r.Time.Unix()))}
	w.rows.Add(uint64(r.Seq))
	w.topics[ref.topic].rows.Add(uint64(r.Seq))
	if r.Key != "" {
		ref.key = w.hash(r.Topic, r.Key)
		w.link(r.Seq, ref)
	}
	return true
}

func (w *window) topicIndex(name string) int32 {
	i, ok := w.index[name]
	if !ok {
		i = int32(len(w.topics))
		w.index[name] = i
		w.topics = append(w.topics, topicRows{name: name, rows: roaring64.New()})
	}
	return i
}

// topicSet returns the unreleased rows of a topic, or nil.
func (w *window) topicSet(name string) *roaring64.Bitmap {
	if i, ok := w.index[name]; ok {
		return w.topics[i].rows
	}
	return nil
}

// hash makes a key's chain. Two keys that collide share a chain: each is then ordered more than it has to be.
func (w *window) hash(topic, key string) uint64 {
	var h maphash.Hash
	h.SetSeed(w.seed)
	_, _ = h.WriteString(topic)
	_ = h.WriteByte(0)
	_, _ = h.WriteString(key)
	return max(1, h.Sum64())
}

// link puts a row into its key's chain, by row number. Nearly always it is the new tail.
func (w *window) link(seq int64, ref *rowRef) {
	tail, ok := w.tails[ref.key]
	if !ok || tail < seq {
		w.tails[ref.key] = seq
		if ok {
			ref.prev = tail
			w.ref(tail).next = seq
		}
		return
	}
	after := w.ref(tail)
	at := tail
	for after.prev > seq {
		at = after.prev
		after = w.ref(at)
	}
	ref.prev, ref.next = after.prev, at
	after.prev = seq
	if ref.prev != 0 {
		w.ref(ref.prev).next = seq
	}
}

// remove forgets a released row; the chain closes over it, so that a later row of the key names the nearest one left.
func (w *window) remove(seq int64) {
	ref := w.ref(seq)
	if ref == nil {
		return
	}
	if ref.key != 0 {
		if ref.prev != 0 {
			w.ref(ref.prev).next = ref.next
		}
		switch {
		case ref.next != 0:
			w.ref(ref.next).prev = ref.prev
		case ref.prev != 0:
			w.tails[ref.key] = ref.prev
		default:
			delete(w.tails, ref.key)
		}
	}
	w.rows.Remove(uint64(seq))
	w.topics[ref.topic].rows.Remove(uint64(seq))
	*ref = rowRef{}
	if w.counts[seq/chunkRows]--; w.counts[seq/chunkRows] == 0 {
		delete(w.counts, seq/chunkRows)
		delete(w.chunks, seq/chunkRows)
	}
}

// idHash mixes an id into 64 bits (FNV-1a). Sums of it are stored, so it never changes.
func idHash(id uuid.UUID) uint64 {
	h := uint64(14695981039346656037)
	for _, b := range id {
		h = (h ^ uint64(b)) * 1099511628211
	}
	return h
}
