package memory

import (
	"slices"

	"github.com/twostep-mq/twostep/broker"
)

// reader is a subscription's durable consumer.
type reader struct {
	spec broker.SubscriptionSpec
	by   []readerAt // by partition
}

type readerAt struct {
	// floor: everything up to it was settled or was never for this reader. settled lies above it.
	floor   uint64
	settled map[uint64]bool
	// out is handed out and not settled, with the batch it is in; seen was handed out at least once.
	out  map[uint64]*Batch
	seen map[uint64]bool
}

func (t *topic) ensureReader(s broker.SubscriptionSpec) *reader {
	if r := t.readers[s.UID]; r != nil {
		return r
	}
	r := &reader{spec: s, by: make([]readerAt, len(t.partitions))}
	for i := range r.by {
		p := &t.partitions[i]
		floor := p.last()
		if s.Since > 0 {
			floor = p.first - 1
			for floor < p.last() && p.at(floor+1).at.UnixNano() < s.Since {
				floor++
			}
		}
		r.by[i] = readerAt{floor: floor, settled: map[uint64]bool{}, out: map[uint64]*Batch{}, seen: map[uint64]bool{}}
	}
	t.readers[s.UID] = r
	return r
}

func (a *readerAt) settle(offset uint64) {
	delete(a.out, offset)
	if offset <= a.floor {
		return
	}
	a.settled[offset] = true
	for a.settled[a.floor+1] {
		a.floor++
		delete(a.settled, a.floor)
	}
}

// skipDropped moves the floor over what the stream no longer holds.
func (a *readerAt) skipDropped(p *partition) {
	if a.floor+1 >= p.first {
		return
	}
	for offset := a.floor + 1; offset < p.first; offset++ {
		delete(a.settled, offset)
		delete(a.out, offset)
	}
	a.floor = p.first - 1
	for a.settled[a.floor+1] {
		a.floor++
		delete(a.settled, a.floor)
	}
}

// Batch is what was handed out to one reader. It is settled, or it fails; a test may do neither, and then lets it Expire.
type Batch struct {
	Deliveries []broker.Delivery
	server     *Server
	conn       *Conn
	inbox      *inbox
	topic, uid string
	stream     string
	part       int
}

// Settle tells the broker that the batch is done with.
func (b *Batch) Settle() {
	if b.inbox != nil {
		b.inbox.settle(b)
		return
	}
	t := b.server.topics[b.topic]
	if t == nil || t.readers[b.uid] == nil || b.stream != t.stream && !b.server.cfg.LateAcks {
		return
	}
	at := &t.readers[b.uid].by[b.part]
	for _, d := range b.Deliveries {
		if d.Position.Offset <= t.partitions[b.part].last() {
			at.settle(d.Position.Offset)
		}
	}
}

// Expire gives the batch back: it will be handed out again, marked Redelivered. The process that has it may still settle it.
func (b *Batch) Expire() {
	if b.inbox != nil {
		b.inbox.giveBack(b)
		return
	}
	t := b.server.topics[b.topic]
	if t == nil || t.stream != b.stream || t.readers[b.uid] == nil {
		return
	}
	at := &t.readers[b.uid].by[b.part]
	for _, d := range b.Deliveries {
		if at.out[d.Position.Offset] == b {
			delete(at.out, d.Position.Offset)
		}
	}
}

// Pull hands out the next batch for a source, at most src.MaxBatch messages (0: 100), or nil: nothing is there, or the reader
// has a batch that is neither settled nor expired. Of a keyed subscription one batch is out at a time, else one for each
// connection. A reader or inbox that has vanished is made again first, where its topic exists. from picks the partition to
// look at first.
func (c *Conn) Pull(src broker.Source, from int) *Batch {
	if c.down || c.gone {
		return nil
	}
	most := src.MaxBatch
	if most == 0 {
		most = 100
	}
	if src.Inbox != "" {
		return c.server.ensureInbox(src.Inbox).pull(c, most)
	}
	t := c.server.topics[src.Subscription.Topic]
	if t == nil {
		return nil
	}
	r := t.ensureReader(src.Subscription)
	for i := range r.by {
		for _, b := range r.by[i].out {
			if r.spec.Keyed || b.conn == c {
				return nil
			}
		}
	}
	for i := range r.by {
		n := (i + from) % len(r.by)
		if b := r.pull(c, t, n, most); b != nil {
			return b
		}
	}
	return nil
}

func (r *reader) pull(c *Conn, t *topic, n, most int) *Batch {
	at, p := &r.by[n], &t.partitions[n]
	at.skipDropped(p)
	b := &Batch{server: c.server, conn: c, topic: t.spec.Name, uid: r.spec.UID, stream: t.stream, part: n}
	for offset := at.floor + 1; offset <= p.last() && len(b.Deliveries) < most; offset++ {
		if at.settled[offset] || at.out[offset] != nil {
			continue
		}
		rec := p.at(offset)
		m := *rec.msg
		b.Deliveries = append(b.Deliveries, broker.Delivery{
			Message: &m, Position: broker.Position{Stream: t.stream, Partition: n, Offset: offset},
			Redelivered: at.seen[offset], Stored: rec.at,
		})
		at.out[offset], at.seen[offset] = b, true
	}
	if len(b.Deliveries) == 0 {
		return nil
	}
	return b
}

// Rewind moves a subscription's reader back by n messages in every partition, as a broker's lost commit of an offset does; it
// does not remember then what it handed out.
func (s *Server) Rewind(topic, uid string, n int) {
	t := s.topics[topic]
	if t == nil || t.readers[uid] == nil {
		return
	}
	for i := range t.readers[uid].by {
		at := &t.readers[uid].by[i]
		at.floor -= min(uint64(n), at.floor-min(at.floor, t.partitions[i].first-1))
		clear(at.seen)
	}
}

// Skip settles everything a subscription's reader has not settled, without anybody having seen it: a late acknowledgement of an
// older stream's deliveries does that.
func (s *Server) Skip(topic, uid string) {
	t := s.topics[topic]
	if t == nil || t.readers[uid] == nil {
		return
	}
	for i := range t.readers[uid].by {
		at := &t.readers[uid].by[i]
		for at.floor < t.partitions[i].last() {
			at.settle(at.floor + 1)
		}
	}
}

// Expire gives everything back that a connection has: it kept silent for too long.
func (s *Server) Expire(c *Conn) {
	for _, name := range sortedKeys(s.topics) {
		t := s.topics[name]
		for _, uid := range sortedKeys(t.readers) {
			for i := range t.readers[uid].by {
				for _, b := range outOf(&t.readers[uid].by[i], c) {
					b.Expire()
				}
			}
		}
	}
	for _, name := range sortedKeys(s.inboxes) {
		if b := s.inboxes[name].out; b != nil && b.conn == c {
			b.Expire()
		}
	}
}

func outOf(at *readerAt, c *Conn) []*Batch {
	var out []*Batch
	for _, b := range at.out {
		if b.conn == c && !slices.Contains(out, b) {
			out = append(out, b)
		}
	}
	return out
}

// positions implements broker.Positions.
func (t *topic) positions(uids []string) broker.Positions {
	ps := broker.Positions{Stream: t.stream, Floor: map[string][]uint64{}}
	for i := range t.partitions {
		ps.First = append(ps.First, t.partitions[i].first)
		ps.Last = append(ps.Last, t.partitions[i].last())
	}
	for _, uid := range uids {
		r := t.readers[uid]
		if r == nil {
			continue
		}
		floors := make([]uint64, len(r.by))
		for i := range r.by {
			r.by[i].skipDropped(&t.partitions[i])
			floors[i] = r.by[i].floor
		}
		ps.Floor[uid] = floors
	}
	return ps
}
