package outbox

import (
	"context"
	"fmt"
	"time"

	"github.com/RoaringBitmap/roaring/v2/roaring64"
)

// releaseMost rows are deleted in one transaction.
const releaseMost = 5000

// checkpoint writes what was confirmed and deletes what everybody has confirmed, in one transaction. Only then are the
// inbox batches settled that said so.
func (r *Relay) checkpoint(ctx context.Context, m *memory, now time.Time, force bool) error {
	waiting := m.unsaved > 0 || len(m.settle) > 0 || m.registryDirty
	if !waiting && !force {
		return nil
	}
	if !force && !m.registryDirty && m.unsavedAcks < r.cfg.Batch/2 && m.unsaved < 4*r.cfg.Batch && now.Sub(m.unsavedSince) < r.cfg.Linger {
		return nil
	}
	c, released, full, err := m.draft()
	if err != nil {
		return err
	}
	if c.empty() {
		m.saved(full)
		return nil
	}
	lease, err := r.store.Commit(ctx, r.lease, c)
	if err != nil {
		return fmt.Errorf("outbox: checkpoint: %w", err)
	}
	r.lease, r.leaseAt = lease, now
	r.released += int64(len(released))
	m.release(released)
	m.broker.dirty = false
	for _, sub := range m.subs {
		sub.reportRecorded(m)
	}
	m.registryDirty = false
	m.saved(full)
	return nil
}

// saved settles what waited for the checkpoint.
func (m *memory) saved(full bool) {
	for _, settled := range m.settle {
		settled(nil)
	}
	m.settle = nil
	m.unsaved, m.unsavedAcks = 0, 0
	if full { // more is complete than one transaction releases: the next one follows at once
		m.unsaved, m.unsavedSince = 1, time.Time{}
	}
	m.more = true // there is room again
}

func (c *confirmer) reportRecorded(m *memory) {
	if !c.recorded {
		m.reportSoon = true
	}
	c.dirty, c.recorded = false, true
}

func (c *Checkpoint) empty() bool {
	return len(c.Release) == 0 && len(c.Bits) == 0 && c.Head == nil
}

// draft puts a checkpoint together without changing the memory.
func (m *memory) draft() (c Checkpoint, released []RowID, full bool, err error) {
	c.Server = m.server
	gone := roaring64.New()
	var sum uint64
	sums := map[string]uint64{}
	if m.caughtUp {
		for i := range m.win.topics {
			t := &m.win.topics[i]
			done := m.complete(t)
			if done == nil {
				continue
			}
			uids := m.uids(t.name)
			for it := done.Iterator(); it.HasNext(); {
				if len(released) == releaseMost {
					full = true
					break
				}
				seq := int64(it.Next())
				ref := m.win.ref(seq)
				h := idHash(ref.id)
				released = append(released, RowID{Seq: seq, ID: ref.id.String()})
				gone.Add(uint64(seq))
				sum += h
				for _, uid := range uids {
					if m.subs[uid].has(seq) {
						sums[uid] += h
					}
				}
			}
		}
	}
	c.Release = released
	if m.broker.dirty || len(released) > 0 {
		b, err := m.broker.without(gone, m.broker.sum-sum, BrokerConfirmer, m.cursor)
		if err != nil {
			return c, nil, false, err
		}
		c.Bits = append(c.Bits, b)
	}
	for _, uid := range sortedKeys(m.subs) {
		if sub := m.subs[uid]; sub.dirty || !sub.recorded || sums[uid] != 0 {
			b, err := sub.without(gone, sub.sum-sums[uid], uid, 0)
			if err != nil {
				return c, nil, false, err
			}
			c.Bits = append(c.Bits, b)
		}
	}
	if m.registryDirty {
		head := m.head
		c.Head = &head
		for _, name := range sortedKeys(m.topics) {
			c.Topics = append(c.Topics, m.topics[name])
		}
		for _, uid := range sortedKeys(m.gone) {
			c.Bits = append(c.Bits, Bits{Confirmer: uid, Subscription: m.gone[uid]})
		}
	}
	return c, released, full, nil
}
