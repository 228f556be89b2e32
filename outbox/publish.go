package outbox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"github.com/twostep-mq/twostep/broker"
)

const (
	// Open gaps are looked at every probeEvery, less often as they grow old: a row that came late waits probeShare of the time it was late,
	// and no more than probeSeldom. (A ring, and a row found behind the cursor, make the relay look at once.)
	probeEvery  = 5 * time.Millisecond
	probeShare  = 0.1
	probeSeldom = time.Second
	// probeMost gaps are asked about in one read, which brings at most as many rows.
	probeMost = 500
	// scanEvery bounds how often a busy doorbell makes the relay read the table.
	scanEvery = time.Millisecond
	// A steady stream of rows is read at longer intervals: a read costs as much as ten rows. A stream is what brings streamFrom rows a
	// read; from streamMost on a read is worth its price at once. streamStretch times what a read takes lies between two reads, but no
	// less than streamGap and no more than streamGapMost.
	streamFrom    = 2
	streamMost    = 100
	streamStretch = 10
	streamGap     = 5 * time.Millisecond
	streamGapMost = 25 * time.Millisecond
	// publishPause follows a failed send to a topic, doubled up to publishPauseMost while they go on failing.
	publishPause     = 200 * time.Millisecond
	publishPauseMost = time.Second
)

// room is how many more rows may be in flight or acknowledged without a checkpoint.
func (r *Relay) room(m *memory) int {
	if m.bytes >= r.cfg.BatchBytes {
		return 0
	}
	return r.cfg.Batch - len(m.flight) - m.unsavedAcks - len(m.pending)
}

// scan reads rows behind the cursor, then what appeared in gaps. Probing first would let a predecessor that commits between the
// two reads come out after its successor.
func (r *Relay) scan(ctx context.Context, m *memory, now time.Time, rung bool) error {
	room := r.room(m)
	if room <= 0 {
		m.more = m.more || rung
		return r.probe(ctx, m, now)
	}
	since := now.Sub(m.scanAt)
	if (rung || m.more) && since >= r.gapNow(m) || since >= r.cfg.Poll {
		limit := min(room, m.pageRows)
		began := r.cfg.Now()
		p, err := r.store.Scan(ctx, m.cursor, limit, true)
		if err != nil {
			return fmt.Errorf("outbox: scan: %w", err)
		}
		if err := m.sameHistory(&p); err != nil {
			return err
		}
		m.scanAt, m.more = now, p.Cut || len(p.Rows) == limit
		m.pageRows = nextPageRows(m.pageRows, &p)
		m.scanGap = gapAfter(len(p.Rows), m.more, r.cfg.Now().Sub(began))
		for i := range p.Rows {
			row := &p.Rows[i]
			m.gaps.add(m.cursor+1, row.Seq-1, now, p.Mark)
			m.cursor = row.Seq
			r.found(m, row)
		}
	} else if rung {
		m.more = true
	}
	return r.probe(ctx, m, now)
}

// pageRowsMost rows are read at a time with their payloads.
const pageRowsMost = 500

// nextPageRows is how many rows to ask for next: as many as a page held where it was cut, or else more again. Servers send what was asked
// for, also where the reader stops in between.
func nextPageRows(last int, p *Page) int {
	if p.Cut {
		return len(p.Rows)
	}
	return min(2*last, pageRowsMost)
}

// gapAfter is how long to wait after a scan that found so many rows and took so long; more: there were others behind them.
func gapAfter(rows int, more bool, took time.Duration) time.Duration {
	if more || rows < streamFrom || rows >= streamMost {
		return scanEvery
	}
	return min(max(streamGap, streamStretch*took), streamGapMost)
}

// gapNow is the least time between two scans. Where many rows are known and not published, those found now are put aside and read
// again later: there is no hurry with that, but other topics and keys may be among them.
func (r *Relay) gapNow(m *memory) time.Duration {
	if m.backlog.GetCardinality() > uint64(r.cfg.Batch) {
		return streamGapMost
	}
	return m.scanGap
}

// probe reads what has appeared in gaps: in all of them, the highest first, since a row just found may have its predecessor in any
// lower one.
func (r *Relay) probe(ctx context.Context, m *memory, now time.Time) error {
	if m.gaps.empty() || now.Sub(m.probeAt) < m.gaps.pause(now) && now.After(m.scanAt) {
		return nil
	}
	m.probeAt = time.Time{} // where it fails, the next round probes before it publishes what was scanned
	for left := m.gaps.probe(now); len(left) > 0; {
		asked := left[:min(probeMost, len(left))]
		p, closed, err := r.store.Probe(ctx, asked, probeMost)
		if err != nil {
			return fmt.Errorf("outbox: probe gaps: %w", err)
		}
		if err := m.sameHistory(&p); err != nil {
			return err
		}
		for i := range p.Rows {
			m.gaps.fill(p.Rows[i].Seq, p.Rows[i].Seq)
			r.found(m, &p.Rows[i])
		}
		for _, g := range closed {
			m.gaps.fill(g.From, g.To)
			m.broker.bits.AddRange(uint64(g.From), uint64(g.To)+1)
			m.broker.dirty = true
		}
		left = left[len(asked):]
		if p.Cut || len(p.Rows) >= probeMost { // there may be more in these
			left = slices.Concat(m.gaps.within(asked, now), left)
		}
	}
	m.probeAt = now
	return nil
}

// sameHistory compares who answered with whom the memory is of.
func (m *memory) sameHistory(p *Page) error {
	if p.Server != m.server {
		return ErrServerChanged
	}
	if p.Counter != 0 && p.Counter < m.counter {
		return fmt.Errorf("%w: row numbers went back from %d to %d", ErrServerChanged, m.counter, p.Counter)
	}
	m.counter = max(m.counter, p.Counter)
	return nil
}

// found takes a new row in; its payload waits in pending.
func (r *Relay) found(m *memory, row *Row) {
	if m.win.has(row.Seq) {
		return
	}
	if !m.win.add(row) {
		r.log.Error("outbox row has no valid id: it is left alone", "outbox", m.uuid, "seq", row.Seq)
		return
	}
	m.queue(row)
}

func (m *memory) queue(row *Row) {
	i, there := slices.BinarySearchFunc(m.pending, row.Seq, func(p *Row, seq int64) int { return int(p.Seq - seq) })
	if !there {
		m.pending = slices.Insert(m.pending, i, row)
		m.bytes += len(row.Payload)
	}
}

// topicPause keeps a topic that the broker does not take from slowing the others down.
type topicPause struct {
	until time.Time
	times int
}

// publish hands pending rows to the broker. Of one key at most one is on its way: a row waits until its predecessor is
// acknowledged.
func (r *Relay) publish(ctx context.Context, m *memory, now time.Time) error {
	r.expire(m, now)
	if err := r.refill(ctx, m, now); err != nil {
		return err
	}
	var rows []*Row
	keep := m.pending[:0]
	for _, row := range m.pending {
		if m.mayPublish(row.Seq) && !m.isPaused(m.win.ref(row.Seq).topic, now) {
			rows = append(rows, row)
		} else {
			keep = append(keep, row)
		}
	}
	clear(m.pending[len(keep):])
	m.pending = keep
	r.spill(m, len(rows))
	// Rows that wait for their predecessor go out as soon as that is acknowledged.
	r.queue.want(len(m.pending) > 0 || !m.backlog.IsEmpty())
	if len(rows) == 0 {
		return nil
	}
	ms := make([]*broker.Message, len(rows))
	topics := make([]int32, len(rows))
	for i, row := range rows {
		m.flight[row.Seq] = inFlight{now, len(row.Payload)}
		topics[i] = m.win.ref(row.Seq).topic
		ms[i] = r.outgoing(m, row, m.predecessor(row.Seq), 1)
	}
	generation := r.generation
	r.broker.Publish(ctx, ms, func(i int, p broker.Position, err error) {
		a := ack{generation: generation, seq: rows[i].Seq, topic: topics[i], at: p, err: err}
		r.queue.pushAck(a)
	})
	return nil
}

// spill keeps rows that wait for their predecessors from filling all the room there is: a predecessor that has to be read again
// would then find none, and one key would hold back all others. What is spilled is read again when it may be published. leaving rows
// are about to.
func (r *Relay) spill(m *memory, leaving int) {
	if r.room(m)-leaving > r.cfg.Batch/8 {
		return
	}
	stay, bytes := 0, 0
	for stay < min(len(m.pending), r.cfg.Batch/2) && bytes < r.cfg.BatchBytes/2 {
		bytes += len(m.pending[stay].Payload)
		stay++
	}
	for _, row := range m.pending[stay:] {
		m.bytes -= len(row.Payload)
		m.putBack(row.Seq)
	}
	clear(m.pending[stay:])
	m.pending = m.pending[:stay]
}

// refill reads payloads of rows that are known but not at hand: left by a relay before, spilled, or failed to be sent. It takes
// those that may be published now, and some of their successors, so that a key with many rows costs no read for each.
func (r *Relay) refill(ctx context.Context, m *memory, now time.Time) error {
	room := min(r.room(m), m.pageRows)
	if room <= 0 || m.backlog.IsEmpty() {
		return nil
	}
	seqs := m.ready(room, min(room, r.cfg.Batch/2-len(m.pending)), now)
	if len(seqs) == 0 {
		return nil
	}
	slices.Sort(seqs)
	p, err := r.read(ctx, m, seqs)
	for _, seq := range seqs[len(p.Rows):] {
		m.nowReady(seq)
	}
	if err != nil {
		return err
	}
	m.pageRows = nextPageRows(m.pageRows, &p)
	for i := range p.Rows {
		m.backlog.Remove(uint64(p.Rows[i].Seq))
		m.queue(&p.Rows[i])
	}
	return nil
}

// read reads rows with their payloads: the first ones of seqs, which are in order, as many as a page holds.
func (r *Relay) read(ctx context.Context, m *memory, seqs []int64) (Page, error) {
	p, err := r.store.Read(ctx, seqs)
	if err != nil {
		return Page{}, fmt.Errorf("outbox: read rows: %w", err)
	}
	if err := m.sameHistory(&p); err != nil {
		return Page{}, err
	}
	for i := range p.Rows {
		if p.Rows[i].Seq != seqs[i] {
			return Page{}, fmt.Errorf("%w: row %d", ErrShortDelete, seqs[i])
		}
	}
	if !p.Cut && len(p.Rows) < len(seqs) {
		return Page{}, fmt.Errorf("%w: row %d", ErrShortDelete, seqs[len(p.Rows)])
	}
	return p, nil
}

// putBack puts a row into the backlog.
func (m *memory) putBack(seq int64) {
	m.backlog.Add(uint64(seq))
	m.nowReady(seq)
}

// nowReady notes a row of the backlog that may be published.
func (m *memory) nowReady(seq int64) {
	if m.refused[seq] || !m.backlog.Contains(uint64(seq)) || !m.mayPublish(seq) {
		return
	}
	topic := m.win.ref(seq).topic
	if m.readyRows[topic] == nil {
		m.readyRows[topic] = roaring64.New()
	}
	m.readyRows[topic].Add(uint64(seq))
}

// anyReady reports whether rows of the backlog may be published now.
func (m *memory) anyReady(now time.Time) bool {
	for topic := range m.readyRows {
		if !m.isPaused(topic, now) {
			return true
		}
	}
	return false
}

// ready takes up to n rows of the backlog that may be published, the lowest of each topic, and after them as many of their successors
// as there is room for, no more than ahead.
func (m *memory) ready(n, ahead int, now time.Time) (seqs []int64) {
	share := max(1, n/max(1, len(m.readyRows)))
	for _, topic := range slices.Sorted(maps.Keys(m.readyRows)) {
		if m.isPaused(topic, now) {
			continue
		}
		rows := m.readyRows[topic]
		took := []uint64{}
		for it := rows.Iterator(); it.HasNext() && len(took) < share && len(seqs) < n; {
			seq := it.Next()
			took = append(took, seq)
			if m.backlog.Contains(seq) && m.mayPublish(int64(seq)) { // else a predecessor has come since
				seqs = append(seqs, int64(seq))
			}
		}
		for _, seq := range took {
			rows.Remove(seq)
		}
		if rows.IsEmpty() {
			delete(m.readyRows, topic)
		}
	}
	for i := 0; i < len(seqs) && i < ahead && len(seqs) < n; i++ {
		if next := m.win.chain(seqs[i]).next; next != 0 && m.backlog.Contains(uint64(next)) && !m.refused[next] {
			seqs = append(seqs, next)
		}
	}
	return seqs
}

func (m *memory) mayPublish(seq int64) bool {
	prev := m.win.chain(seq).prev
	return prev == 0 || m.broker.has(prev)
}

func (m *memory) isPaused(topic int32, now time.Time) bool {
	return len(m.paused) > 0 && now.Before(m.paused[topic].until)
}

// predecessor is the id of the key's nearest unreleased row before seq.
func (m *memory) predecessor(seq int64) string {
	prev := m.win.chain(seq).prev
	if prev == 0 {
		return ""
	}
	return m.win.ref(prev).id.String()
}

// outgoing is a row as it travels.
func (r *Relay) outgoing(m *memory, row *Row, prev string, attempt int) *broker.Message {
	out := row.Message
	out.Outbox, out.Seq, out.Prev, out.Attempt = m.uuid, row.Seq, prev, attempt
	return &out
}

// acknowledged takes the broker's answer to one row.
func (r *Relay) acknowledged(m *memory, a ack, now time.Time) {
	ref := m.win.ref(a.seq)
	if _, ok := m.flight[a.seq]; !ok || ref == nil {
		return // it expired, and will be published again
	}
	m.landed(a.seq)
	if a.err != nil {
		r.unsent(m, a, now)
		return
	}
	if !m.broker.confirm(a.seq, ref) {
		return
	}
	delete(m.paused, ref.topic)
	if next := m.win.chain(a.seq).next; next != 0 {
		m.nowReady(next)
	}
	m.note(now)
	m.unsavedAcks++
	topic := m.win.topics[ref.topic].name
	marks := m.marks[topic]
	if n := len(marks); n == 0 || !marks[n-1].takes(a.at) {
		m.marks[topic] = append(marks, newMark(roaring64.New()))
	}
	marks = m.marks[topic]
	marks[len(marks)-1].add(a.seq, a.at)
}

// inFlight is a row that was handed to the broker.
type inFlight struct {
	at   time.Time
	size int // of its payload
}

// landed takes a row out of flight.
func (m *memory) landed(seq int64) {
	m.bytes -= m.flight[seq].size
	delete(m.flight, seq)
}

func (r *Relay) unsent(m *memory, a ack, now time.Time) {
	topic := m.win.topics[a.topic].name
	defer m.putBack(a.seq)
	switch {
	case errors.Is(a.err, broker.ErrTooLarge):
		r.refuseRow(m, a, topic, "the broker refuses a message for its size: it is held, and its key with it; raise the broker's limit and restart the relay")
		return
	case errors.Is(a.err, broker.ErrInvalid):
		r.refuseRow(m, a, topic, "the broker cannot carry a message: it is held, and its key with it; correct its row in twostep_outbox and restart the relay")
		return
	case errors.Is(a.err, broker.ErrNoTopic):
		m.lag.missing(topic)
	}
	p := m.paused[a.topic]
	if now.Before(p.until) {
		return // of the same send
	}
	r.sayUnsent(m, topic, a.err)
	p.until = now.Add(min(publishPause<<min(p.times, 10), publishPauseMost))
	p.times++
	m.paused[a.topic] = p
}

func (r *Relay) refuseRow(m *memory, a ack, topic, what string) {
	if !m.refused[a.seq] {
		m.refused[a.seq] = true
		r.log.Error("row is held", "why", what, "outbox", m.uuid, "seq", a.seq, "topic", topic, "error", a.err)
	}
}

func (r *Relay) sayUnsent(m *memory, topic string, err error) {
	if errors.Is(err, broker.ErrFull) {
		r.log.Warn("the broker is full: rows wait and go on by themselves; free its disk, or raise the limit of the topic's stream",
			"outbox", m.uuid, "topic", topic, "error", err)
		return
	}
	r.log.Warn("publishing failed; it is tried again", "outbox", m.uuid, "topic", topic, "error", err)
}

// expire gives up on acknowledgements that are overdue: those rows are published again.
func (r *Relay) expire(m *memory, now time.Time) {
	if now.Sub(m.expireAt) < time.Second {
		return
	}
	m.expireAt = now
	for seq, sent := range m.flight {
		if now.Sub(sent.at) >= r.cfg.PublishTimeout {
			m.landed(seq)
			m.putBack(seq)
		}
	}
}
