package outbox

import (
	"bytes"
	"fmt"

	"github.com/RoaringBitmap/roaring/v2/roaring64"
)

// BrokerConfirmer names the first confirmer of every row.
const BrokerConfirmer = "broker"

// confirmer is one party whose word a row needs before it is released: the broker, or a subscription.
type confirmer struct {
	sub  RegistrySubscription // zero for the broker
	bits *roaring64.Bitmap
	// sum adds up idHash of the unreleased rows whose bit is set: it ties row numbers, which may come back, to these very rows.
	sum uint64
	// dirty: changed since the last checkpoint. recorded: the outbox's tables name it.
	dirty, recorded bool
	resend          resend
}

func newConfirmer(sub RegistrySubscription) *confirmer {
	return &confirmer{sub: sub, bits: roaring64.New(), resend: newResend()}
}

// confirm sets the bit of a row of the window; false if it was set.
func (c *confirmer) confirm(seq int64, ref *rowRef) bool {
	if !c.bits.CheckedAdd(uint64(seq)) {
		return false
	}
	c.sum += idHash(ref.id)
	c.dirty = true
	return true
}

func (c *confirmer) has(seq int64) bool { return c.bits.Contains(uint64(seq)) }

// without encodes the confirmer as it will be once the rows in released are gone. The broker keeps their bits: they then say "no
// such row".
func (c *confirmer) without(released *roaring64.Bitmap, sum uint64, name string, cursor int64) (Bits, error) {
	bits := c.bits.Clone()
	if name != BrokerConfirmer {
		bits.AndNot(released)
	}
	bits.RunOptimize()
	b, err := bits.ToPortableBytes()
	if err != nil {
		return Bits{}, fmt.Errorf("outbox: encode bitmap of %s: %w", name, err)
	}
	return Bits{Confirmer: name, Subscription: c.sub, Bitmap: b, Cursor: cursor, Digest: sum}, nil
}

// load takes recorded bits over. They count only for rows that are there, and only if they are of these very rows: else
// numbers were used again, and forgetting a confirmation costs a duplicate, where keeping it would cost a message.
func (c *confirmer) load(b Bits, w *window) (genuine bool, err error) {
	bits := roaring64.New()
	if len(b.Bitmap) > 0 {
		if _, err := bits.ReadPortableFrom(bytes.NewReader(b.Bitmap)); err != nil {
			return false, fmt.Errorf("outbox: bitmap of %s: %w", b.Confirmer, err)
		}
	}
	present := roaring64.And(bits, w.rows)
	var sum uint64
	for it := present.Iterator(); it.HasNext(); {
		sum += idHash(w.ref(int64(it.Next())).id)
	}
	c.recorded = true
	genuine = sum == b.Digest
	switch {
	case !genuine && b.Confirmer == BrokerConfirmer:
		bits.AndNot(w.rows)
		sum = 0
	case !genuine:
		bits, sum = roaring64.New(), 0
	case b.Confirmer != BrokerConfirmer:
		bits = present
	}
	c.bits, c.sum, c.dirty = bits, sum, !genuine
	return genuine, nil
}
