package outbox

import (
	"time"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"github.com/twostep-mq/twostep/broker"
)

// resend is what a subscription lacks although the broker has nothing more for it: sent again to its inbox, lowest row first.
type resend struct {
	// due holds rows to send again until their receipt comes.
	due *roaring64.Bitmap
	// sent are the unanswered ones of due, at most maxUnanswered.
	sent map[int64]sentAgain
	// fullUntil: its inbox was full.
	fullUntil time.Time
}

type sentAgain struct {
	at    time.Time
	times int
}

func newResend() resend { return resend{due: roaring64.New(), sent: map[int64]sentAgain{}} }

// settle forgets a row: its receipt came, or it was released.
func (r *resend) settle(seq int64) {
	r.due.Remove(uint64(seq))
	delete(r.sent, seq)
}

// next returns up to n rows to send now, in order. It looks at the lowest maxUnanswered rows alone: a predecessor that is found late
// must not wait for the answers to its successors, which wait for it.
func (r *resend) next(now time.Time, n, maxUnanswered int, backoff func(int) time.Duration) []int64 {
	if now.Before(r.fullUntil) {
		return nil
	}
	var out []int64
	it := r.due.Iterator()
	for range maxUnanswered {
		if !it.HasNext() || len(out) == n {
			break
		}
		seq := int64(it.Next())
		if s, again := r.sent[seq]; !again || now.Sub(s.at) >= backoff(s.times) {
			out = append(out, seq)
		}
	}
	return out
}

// mark is a set of rows of one topic and a place on the broker at or behind all of them: who has passed the place and has not
// confirmed a row will not get it from the topic any more.
type mark struct {
	rows *roaring64.Bitmap
	// stream and offsets (by partition) are the place; unknown until a first look at the broker where rows were published
	// before this relay's time: then the end of the stream stands for it.
	stream  string
	offsets []uint64
	known   bool
	// only, if set, is the one subscription this mark is about.
	only string
	// passed are the subscriptions already looked at.
	passed map[string]bool
}

func newMark(rows *roaring64.Bitmap) *mark {
	return &mark{rows: rows, passed: map[string]bool{}}
}

// add notes an acknowledged row.
func (m *mark) add(seq int64, p broker.Position) {
	m.rows.Add(uint64(seq))
	m.stream, m.known = p.Stream, true
	for len(m.offsets) <= p.Partition {
		m.offsets = append(m.offsets, 0)
	}
	m.offsets[p.Partition] = max(m.offsets[p.Partition], p.Offset)
}

// markRows bounds a mark, and so what is asked about again after a merge.
const markRows = 1000

// takes reports whether one more row at p may be noted here: not once anybody was looked at.
func (m *mark) takes(p broker.Position) bool {
	return m.known && m.only == "" && m.stream == p.Stream && len(m.passed) == 0 && m.rows.GetCardinality() < markRows
}

// passedBy reports whether the subscription can get nothing of the mark from the topic any more.
func (m *mark) passedBy(uid string, ps *broker.Positions) bool {
	for partition, offset := range m.offsets {
		if offset > 0 && !ps.Passed(uid, broker.Position{Stream: m.stream, Partition: partition, Offset: offset}) {
			return false
		}
	}
	return true
}

// merge joins two marks of one stream: the later place, all rows.
func (m *mark) merge(o *mark) bool {
	if m.stream != o.stream || !m.known || !o.known || m.only != o.only {
		return false
	}
	m.rows.Or(o.rows)
	for p, off := range o.offsets {
		for len(m.offsets) <= p {
			m.offsets = append(m.offsets, 0)
		}
		m.offsets[p] = max(m.offsets[p], off)
	}
	for uid := range m.passed {
		if !o.passed[uid] {
			delete(m.passed, uid)
		}
	}
	return true
}
