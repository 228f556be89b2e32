package outbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/RoaringBitmap/roaring/v2/roaring64"
	"github.com/google/uuid"

	"github.com/twostep-mq/twostep/broker"
)

// markerType is the content type of a marker: a message of the relay to its own inbox. When it comes back, every receipt that
// was there before it has been read.
const markerType = "application/vnd.twostep.marker"

const (
	// sendAgainMost rows go to one inbox in one round.
	sendAgainMost = 200
	// markerPatience is how long a marker may take before another is sent.
	markerPatience = 5 * time.Second
	// fullPause follows a full inbox.
	fullPause = time.Second
	// marksMost of a topic are kept before neighbours are merged.
	marksMost = 256
	// refusedPause is how long a topic or an inbox is left alone for which the broker had an error: it must not keep the others from
	// what they lack.
	refusedPause = 3 * time.Second
	// aboutMarker names the marker in lagCheck.later.
	aboutMarker = "marker"
)

// lagCheck finds rows that a subscription will not get any more and has not confirmed: the broker says it passed them; then
// a marker makes sure that its receipts are not merely on their way.
type lagCheck struct {
	// gone are topics the broker does not know.
	gone map[string]bool
	// found by subscription, waiting for the marker; marker is its payload, "" if none is under way.
	found  map[string]*roaring64.Bitmap
	marker string
	sentAt time.Time
	back   bool
	// later: topics and inboxes for which the broker had an error, and when to ask about them again.
	later map[string]time.Time
}

func (l *lagCheck) missing(topic string) { l.gone[topic] = true }

func (l *lagCheck) arrived(marker string) {
	if marker != "" && marker == l.marker {
		l.back = true
	}
}

// sendAgain looks for rows that somebody will not get by himself, and sends them to his inbox. What the broker refuses to one is no
// error: the others get theirs. An error is the store's, or says that the broker did not answer in time.
func (r *Relay) sendAgain(ctx context.Context, m *memory, now time.Time) error {
	asking, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for _, topic := range sortedKeys(m.lag.gone) {
		r.ask(asking, m, "stream of "+topic, now, func(ctx context.Context) error {
			if err := r.broker.EnsureTopic(ctx, r.topicSpec(m, topic)); err != nil {
				return fmt.Errorf("outbox: make topic %s: %w", topic, err)
			}
			delete(m.lag.gone, topic)
			return nil
		})
	}
	if now.Sub(m.positionsAt) >= r.cfg.Positions && !m.win.rows.IsEmpty() {
		m.positionsAt = now
		for i := range m.win.topics {
			t := &m.win.topics[i]
			r.ask(asking, m, "readers of "+t.name, now, func(ctx context.Context) error { return r.look(ctx, m, t) })
		}
	}
	r.ask(asking, m, aboutMarker, now, func(ctx context.Context) error { return r.mark(ctx, m, now) })
	for _, uid := range sortedKeys(m.subs) {
		if now.Before(m.lag.later[uid]) || asking.Err() != nil {
			continue
		}
		ms, seqs, err := r.lacking(ctx, m, uid, now)
		if err != nil {
			return err
		}
		if len(ms) > 0 {
			r.ask(asking, m, uid, now, func(ctx context.Context) error { return r.sendTo(ctx, m, uid, seqs, ms, now) })
		}
	}
	if err := asking.Err(); err != nil {
		return fmt.Errorf("outbox: the broker does not answer: %w", err)
	}
	return nil
}

// ask asks the broker something about one topic or inbox, unless it had an error for it a moment ago.
func (r *Relay) ask(ctx context.Context, m *memory, about string, now time.Time, fn func(context.Context) error) {
	if now.Before(m.lag.later[about]) || ctx.Err() != nil {
		return
	}
	delete(m.lag.later, about)
	if err := fn(ctx); err != nil {
		m.lag.later[about] = now.Add(refusedPause)
		r.log.Warn("the broker has an error for one, the others go on; it is tried again", "outbox", m.uuid, "error", err)
	}
}

func (r *Relay) topicSpec(m *memory, topic string) broker.TopicSpec {
	return broker.TopicSpec{Name: topic, Retained: m.topics[topic].Delivery == DeliveryBroker}
}

// look compares the marks of a topic with where its subscriptions are.
func (r *Relay) look(ctx context.Context, m *memory, t *topicRows) error {
	uids := m.uids(t.name)
	if len(m.marks[t.name]) == 0 {
		return nil
	}
	if t.rows.IsEmpty() || m.topics[t.name].Delivery == DeliveryBroker {
		delete(m.marks, t.name)
		return nil
	}
	if len(uids) == 0 {
		return nil
	}
	ps, err := r.broker.Positions(ctx, t.name, uids)
	if errors.Is(err, broker.ErrNoTopic) {
		// Nothing is held any more: whoever comes later has passed all of it.
		m.lag.missing(t.name)
		ps = broker.Positions{Stream: "gone"}
	} else if err != nil {
		return fmt.Errorf("outbox: positions of %s: %w", t.name, err)
	}
	var left []*mark
	for _, mk := range m.marks[t.name] {
		if !mk.known {
			mk.stream, mk.offsets, mk.known = ps.Stream, ps.Last, true
		}
		if !m.lookAt(mk, t, uids, &ps) {
			left = append(left, mk)
		}
	}
	if len(left) > marksMost {
		left = mergeMarks(left)
	}
	m.marks[t.name] = left
	return nil
}

// lookAt notes what passed subscriptions lack; true if the mark has served.
func (m *memory) lookAt(mk *mark, t *topicRows, uids []string, ps *broker.Positions) bool {
	if !mk.rows.Intersects(t.rows) {
		return true
	}
	served := true
	for _, uid := range uids {
		if mk.only != "" && mk.only != uid || mk.passed[uid] {
			continue
		}
		if !mk.passedBy(uid, ps) {
			served = false
			continue
		}
		mk.passed[uid] = true
		lacking := roaring64.And(mk.rows, t.rows)
		lacking.AndNot(m.subs[uid].bits)
		lacking.AndNot(m.subs[uid].resend.due)
		if lacking.IsEmpty() {
			continue
		}
		if m.lag.found[uid] == nil {
			m.lag.found[uid] = roaring64.New()
		}
		m.lag.found[uid].Or(lacking)
		m.lag.marker = "" // what was found now needs a marker sent from now on
	}
	return served
}

func mergeMarks(marks []*mark) []*mark {
	var out []*mark
	for _, mk := range marks {
		if n := len(out); n > 0 && out[n-1].rows.GetCardinality() <= mk.rows.GetCardinality() && out[n-1].merge(mk) {
			continue
		}
		out = append(out, mk)
	}
	return out
}

// mark sends the marker, or takes over what was found once it is back.
func (r *Relay) mark(ctx context.Context, m *memory, now time.Time) error {
	if len(m.lag.found) == 0 {
		return nil
	}
	if m.lag.back && m.lag.marker != "" {
		for uid, rows := range m.lag.found {
			if c := m.subs[uid]; c != nil {
				rows.AndNot(c.bits)
				rows.And(m.win.rows)
				c.resend.due.Or(rows)
			}
		}
		m.lag.found, m.lag.marker, m.lag.back = map[string]*roaring64.Bitmap{}, "", false
		return nil
	}
	if m.lag.marker != "" && now.Sub(m.lag.sentAt) < markerPatience {
		return nil
	}
	m.lag.marker, m.lag.sentAt, m.lag.back = uuid.NewString(), now, false
	msg := &broker.Message{ID: m.lag.marker, ContentType: markerType, Payload: []byte(m.lag.marker), Time: now}
	if _, err := r.sendInbox(ctx, Inbox(m.uuid), []*broker.Message{msg}); err != nil && !errors.Is(err, broker.ErrFull) {
		return fmt.Errorf("outbox: marker: %w", err)
	}
	return nil
}

// lacking reads the rows that are to be sent to one subscription now.
func (r *Relay) lacking(ctx context.Context, m *memory, uid string, now time.Time) ([]*broker.Message, []int64, error) {
	c := m.subs[uid]
	seqs := c.resend.next(now, sendAgainMost, r.cfg.Unanswered, r.cfg.ResendBackoff)
	if len(seqs) == 0 {
		return nil, nil, nil
	}
	p, err := r.read(ctx, m, seqs)
	if err != nil {
		return nil, nil, err
	}
	ms := make([]*broker.Message, len(p.Rows))
	for i := range p.Rows {
		row := &p.Rows[i]
		ms[i] = r.outgoing(m, row, m.predecessor(row.Seq), c.resend.sent[row.Seq].times+2)
	}
	return ms, seqs[:len(ms)], nil
}

// sendTo sends to one subscription what it lacks.
func (r *Relay) sendTo(ctx context.Context, m *memory, uid string, seqs []int64, ms []*broker.Message, now time.Time) error {
	c := m.subs[uid]
	n, err := r.sendInbox(ctx, SubscriptionInbox(uid), ms)
	sent := seqs[:n]
	switch {
	case err == nil:
		sent = seqs
		r.log.Info("sent again", "outbox", m.uuid, "subscription", c.sub.Topic+"/"+c.sub.Name, "rows", len(seqs), "first", seqs[0])
	case errors.Is(err, broker.ErrFull):
		sent = seqs
		c.resend.fullUntil, err = now.Add(fullPause), nil
	case errors.Is(err, broker.ErrTooLarge) && n < len(seqs):
		sent = seqs[:n+1] // the others must not wait for it
	}
	for _, seq := range sent {
		c.resend.sent[seq] = sentAgain{at: now, times: c.resend.sent[seq].times + 1}
	}
	if err != nil {
		return fmt.Errorf("outbox: send again to %s/%s: %w", c.sub.Topic, c.sub.Name, err)
	}
	return nil
}

// sendInbox makes the inbox where it is missing. n messages are known to be stored.
func (r *Relay) sendInbox(ctx context.Context, inbox string, ms []*broker.Message) (n int, err error) {
	n, err = r.broker.Send(ctx, inbox, ms)
	if !errors.Is(err, broker.ErrNoInbox) {
		return n, err
	}
	if err := r.broker.EnsureInbox(ctx, inbox); err != nil {
		return n, err
	}
	more, err := r.broker.Send(ctx, inbox, ms[n:])
	return n + more, err
}
