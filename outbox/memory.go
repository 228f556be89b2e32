package outbox

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/RoaringBitmap/roaring/v2/roaring64"
	"github.com/google/uuid"
)

// memory is what a relay knows of its outbox. It is built from the tables and thrown away whenever they may have another
// history: nothing in it is needed for safety.
type memory struct {
	uuid   string
	server string
	// counter is the highest row number the database is known to have given out; when it goes back, numbers are used again.
	counter int64
	// numbersBack: it went back before these tables were loaded, or the recorded bits are of other rows.
	numbersBack bool
	win         *window
	// cursor is the highest row number scanned; gaps lie below it.
	cursor int64
	gaps   gaps

	broker *confirmer
	subs   map[string]*confirmer // by uid, those not removed
	gone   map[string]RegistrySubscription
	topics map[string]RegistryTopic // settings as known, by name, without subscriptions
	head   RegistryHead             // as recorded or, with registryDirty, to be recorded
	// caughtUp: a head that may decide about this outbox was seen since the tables were loaded.
	caughtUp, registryDirty bool

	// unpublished rows are in exactly one of three places: backlog (payload in the database alone), pending (payload at hand, in
	// order), flight (handed to the broker).
	backlog *roaring64.Bitmap
	pending []*Row
	flight  map[int64]inFlight
	// bytes of payloads at hand: of pending rows and of those in flight.
	bytes int
	// pageRows to read next with their payloads.
	pageRows int
	// readyRows of the backlog may be published, by topic; a late predecessor of one may have come since.
	readyRows map[int32]*roaring64.Bitmap
	// paused topics had a failed send, by index. refused rows, which the broker can never take, are held until the relay starts anew.
	paused  map[int32]topicPause
	refused map[int64]bool

	marks map[string][]*mark // by topic
	// unsaved counts confirmations no checkpoint holds yet; since when.
	unsaved      int
	unsavedAcks  int
	unsavedSince time.Time
	settle       []func(error) // inbox batches to settle with the next checkpoint

	scanAt, probeAt, expireAt, positionsAt time.Time
	more                                   bool          // the last scan was full, or the bell rang since
	scanGap                                time.Duration // no scan sooner after the last, unless Poll is over
	reported                               Report
	reportAt, reportLookAt                 time.Time
	reportSoon                             bool
	brokerAt                               time.Time // no calls to the broker before
	lag                                    lagCheck
}

// loadPage rows are read at a time without their payloads.
const loadPage = 10_000

// load builds the memory from the tables.
func (r *Relay) load(ctx context.Context, now time.Time) (*memory, error) {
	snap, err := r.store.Load(ctx)
	if err != nil {
		return nil, fmt.Errorf("outbox: load: %w", err)
	}
	m := &memory{
		uuid: snap.UUID, server: snap.Server, win: newWindow(), head: snap.Head,
		broker: newConfirmer(RegistrySubscription{}), subs: map[string]*confirmer{}, gone: map[string]RegistrySubscription{},
		topics: map[string]RegistryTopic{}, backlog: roaring64.New(), flight: map[int64]inFlight{}, pageRows: pageRowsMost,
		readyRows: map[int32]*roaring64.Bitmap{}, paused: map[int32]topicPause{}, refused: map[int64]bool{}, marks: map[string][]*mark{}, more: true, reportSoon: true,
		lag: lagCheck{gone: map[string]bool{}, found: map[string]*roaring64.Bitmap{}, later: map[string]time.Time{}},
	}
	for _, t := range snap.Topics {
		m.topics[t.Name] = t
	}
	for _, b := range snap.Bits {
		if b.Confirmer == BrokerConfirmer {
			m.cursor = b.Cursor
		}
	}
	mark, err := r.loadRows(ctx, m)
	if err != nil {
		return nil, err
	}
	for _, b := range snap.Bits {
		if err := m.loadConfirmer(b, r); err != nil {
			return nil, err
		}
	}
	if m.numbersBack || snap.Recorded != "" && snap.Recorded != snap.Server {
		m.distrustNumbers()
	}
	m.backlog = roaring64.AndNot(m.win.rows, m.broker.bits)
	for it := m.backlog.Iterator(); it.HasNext(); {
		m.nowReady(int64(it.Next()))
	}
	m.gaps = gapsBelow(m.cursor, m.broker.bits, m.win.rows, now, mark)
	for _, t := range m.win.topics {
		if acked := roaring64.And(t.rows, m.broker.bits); !acked.IsEmpty() {
			m.marks[t.name] = append(m.marks[t.name], newMark(acked))
		}
	}
	return m, nil
}

// loadRows fills the window with the rows below the recorded cursor; those above it are scanned with their payloads later.
func (r *Relay) loadRows(ctx context.Context, m *memory) (mark string, err error) {
	for after := int64(0); ; {
		p, err := r.store.Scan(ctx, after, loadPage, false)
		if err != nil {
			return "", fmt.Errorf("outbox: load rows: %w", err)
		}
		if p.Server != m.server {
			return "", ErrServerChanged
		}
		mark = p.Mark // the last page's: gaps are looked for when all of them are read
		if after == 0 {
			m.counter = p.Counter
			if p.Counter != 0 && p.Counter < m.cursor {
				r.log.Warn("row numbers of the outbox went back: it was emptied or restored", "outbox", m.uuid, "cursor", m.cursor, "now", p.Counter)
				m.cursor, m.numbersBack = p.Counter, true
			}
		}
		for i := range p.Rows {
			if p.Rows[i].Seq > m.cursor {
				return mark, nil
			}
			m.win.add(&p.Rows[i])
			after = p.Rows[i].Seq
		}
		if len(p.Rows) < loadPage {
			return mark, nil
		}
	}
}

func (m *memory) loadConfirmer(b Bits, r *Relay) error {
	c := newConfirmer(b.Subscription)
	if b.Confirmer != BrokerConfirmer && b.Subscription.Removed {
		m.gone[b.Confirmer] = b.Subscription
		return nil
	}
	genuine, err := c.load(b, m.win)
	if err != nil {
		return err
	}
	if !genuine {
		m.numbersBack = true
		r.log.Warn("confirmations in the outbox are of other rows: forgotten, the rows are sent again", "outbox", m.uuid, "confirmer", b.Confirmer)
	}
	if b.Confirmer == BrokerConfirmer {
		above := roaring64.New()
		if !c.bits.IsEmpty() && c.bits.Maximum() > uint64(m.cursor) {
			above.AddRange(uint64(m.cursor)+1, c.bits.Maximum()+1)
			c.bits.AndNot(above)
		}
		m.broker = c
		return nil
	}
	m.subs[b.Confirmer] = c
	return nil
}

// distrustNumbers forgets what the broker's bits say of numbers at which no row is seen, and what was scanned above the last row that is:
// where numbers may have been given out again, an open transaction may hold the ones, and a later one get the others.
func (m *memory) distrustNumbers() {
	m.broker.bits.And(m.win.rows)
	m.broker.dirty = true
	m.cursor = 0
	if !m.win.rows.IsEmpty() {
		m.cursor = int64(m.win.rows.Maximum())
	}
}

// uids of the subscriptions of a topic, in a fixed order.
func (m *memory) uids(topic string) []string {
	var out []string
	for uid, c := range m.subs {
		if c.sub.Topic == topic {
			out = append(out, uid)
		}
	}
	slices.Sort(out)
	return out
}

func (m *memory) readers(topic string) []*confirmer {
	out := []*confirmer{}
	for _, uid := range m.uids(topic) {
		out = append(out, m.subs[uid])
	}
	return out
}

// complete returns the rows of a topic that all its confirmers have confirmed.
func (m *memory) complete(t *topicRows) *roaring64.Bitmap {
	settings, known := m.topics[t.name]
	if !known || settings.Deleted || t.rows.IsEmpty() {
		return nil
	}
	uids := m.uids(t.name)
	if settings.Delivery == DeliveryBroker {
		uids = nil
	} else if len(uids) == 0 && settings.NoSubscribers != NoSubscribersDrop {
		return nil
	}
	done := t.rows
	for _, uid := range uids {
		if done = roaring64.And(done, m.subs[uid].bits); done.IsEmpty() {
			return nil
		}
	}
	return roaring64.And(done, m.broker.bits)
}

// confirmed takes a subscription's word on a row, if it is on this very row.
func (m *memory) confirmed(uid string, e ReceiptEntry, now time.Time) {
	c, ref := m.subs[uid], m.win.ref(e.Seq)
	if c == nil || ref == nil {
		return
	}
	if id, err := uuid.Parse(e.ID); err != nil || id != ref.id {
		return
	}
	if c.confirm(e.Seq, ref) {
		m.note(now)
	}
	c.resend.settle(e.Seq)
}

// note counts a confirmation that the next checkpoint has to hold.
func (m *memory) note(now time.Time) {
	m.lingerFrom(now)
	m.unsaved++
}

// lingerFrom starts the wait for more, unless it runs.
func (m *memory) lingerFrom(now time.Time) {
	if m.unsaved == 0 && len(m.settle) == 0 {
		m.unsavedSince = now
	}
}

// release forgets rows that were deleted.
func (m *memory) release(rows []RowID) {
	readers := map[int32][]*confirmer{}
	for _, row := range rows {
		ref := m.win.ref(row.Seq)
		if ref == nil {
			continue
		}
		if _, ok := readers[ref.topic]; !ok {
			readers[ref.topic] = m.readers(m.win.topics[ref.topic].name)
		}
		h := idHash(ref.id)
		m.broker.sum -= h
		for _, c := range readers[ref.topic] {
			if c.bits.CheckedRemove(uint64(row.Seq)) {
				c.sum -= h
			}
			c.resend.settle(row.Seq)
		}
		m.win.remove(row.Seq)
	}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
