package outbox

import (
	"hash/maphash"

	"github.com/RoaringBitmap/roaring/v2/roaring64"
	"github.com/google/uuid"
)

// window is what a relay knows of the unreleased rows of its outbox: id, topic, age and the chain of each ordering key. It
// holds no payloads: a waiting row costs 24 bytes, and as many again where it has a key.
type window struct {
	rows   *roaring64.Bitmap // row numbers of all unreleased rows
	topics []topicRows       // by topic index
	index  map[string]int32  // topic name → index
	chunks map[int64]*chunk  // by row number / chunkRows
	tails  map[uint64]int64  // key hash → the key's last unreleased row
	seed   maphash.Seed
}

type topicRows struct {
	name string
	rows *roaring64.Bitmap
}

const chunkRows = 128

// chunk holds neighbouring rows.
type chunk struct {
	refs  [chunkRows]rowRef
	count int
	links *[chunkRows]link // nil while none of them has a key
}

type rowRef struct {
	id     uuid.UUID
	topic  int32
	madeAt uint32 // Unix seconds
}

// link is a row's place in the chain of its key's unreleased rows.
type link struct {
	key        uint64 // hash of topic and key; 0: no order
	prev, next int64  // neighbours; 0: none
}

func newWindow() *window {
	return &window{
		rows: roaring64.New(), index: map[string]int32{}, chunks: map[int64]*chunk{},
		tails: map[uint64]int64{}, seed: maphash.MakeSeed(),
	}
}

func (w *window) has(seq int64) bool { return w.rows.Contains(uint64(seq)) }

func (w *window) ref(seq int64) *rowRef {
	if c := w.chunks[seq/chunkRows]; c != nil && w.has(seq) {
		return &c.refs[seq%chunkRows]
	}
	return nil
}

// chain returns the row's place in its key's chain; that of a row without a key is nowhere.
func (w *window) chain(seq int64) link {
	if c := w.chunks[seq/chunkRows]; c != nil && c.links != nil {
		return c.links[seq%chunkRows]
	}
	return link{}
}

// linkOf is for changing it. The row has a key.
func (w *window) linkOf(seq int64) *link { return &w.chunks[seq/chunkRows].links[seq%chunkRows] }

// add takes a row in; false if it was known, or if its id is no UUID and no receipt could ever name it.
func (w *window) add(r *Row) bool {
	id, err := uuid.Parse(r.ID)
	if err != nil || w.has(r.Seq) {
		return false
	}
	c := w.chunks[r.Seq/chunkRows]
	if c == nil {
		c = new(chunk)
		w.chunks[r.Seq/chunkRows] = c
	}
	c.count++
	ref := &c.refs[r.Seq%chunkRows]
	*ref = rowRef{id: id, topic: w.topicIndex(r.Topic), madeAt: uint32(max(0, r.Time.Unix()))}
	w.rows.Add(uint64(r.Seq))
	w.topics[ref.topic].rows.Add(uint64(r.Seq))
	if r.Key != "" {
		if c.links == nil {
			c.links = new([chunkRows]link)
		}
		w.link(r.Seq, w.hash(r.Topic, r.Key))
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
func (w *window) link(seq int64, key uint64) {
	self := w.linkOf(seq)
	self.key = key
	tail, ok := w.tails[key]
	if !ok || tail < seq {
		w.tails[key] = seq
		if ok {
			self.prev = tail
			w.linkOf(tail).next = seq
		}
		return
	}
	at := tail
	after := w.linkOf(at)
	for after.prev > seq {
		at = after.prev
		after = w.linkOf(at)
	}
	self.prev, self.next = after.prev, at
	after.prev = seq
	if self.prev != 0 {
		w.linkOf(self.prev).next = seq
	}
}

// unlink closes the chain over a row, so that a later row of the key names the nearest one left.
func (w *window) unlink(seq int64) {
	self := w.chain(seq)
	if self.key == 0 {
		return
	}
	if self.prev != 0 {
		w.linkOf(self.prev).next = self.next
	}
	switch {
	case self.next != 0:
		w.linkOf(self.next).prev = self.prev
	case self.prev != 0:
		w.tails[self.key] = self.prev
	default:
		delete(w.tails, self.key)
	}
	*w.linkOf(seq) = link{}
}

// remove forgets a released row.
func (w *window) remove(seq int64) {
	ref := w.ref(seq)
	if ref == nil {
		return
	}
	w.unlink(seq)
	w.rows.Remove(uint64(seq))
	w.topics[ref.topic].rows.Remove(uint64(seq))
	*ref = rowRef{}
	c := w.chunks[seq/chunkRows]
	if c.count--; c.count == 0 {
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
