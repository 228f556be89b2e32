package outbox

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"github.com/twostep-mq/twostep/broker"
)

// registryView is the registry as the broker's state shows it to this process.
type registryView struct {
	topics map[string]RegistryTopic
	head   *RegistryHead
	// grown: a topic came that was not caught up with.
	grown bool
}

func newRegistryView() registryView {
	return registryView{topics: map[string]RegistryTopic{}}
}

// apply takes a change in; true if the view may decide something now that it could not before. What does not decode is ignored: a
// newer server's words for newer relays.
func (v *registryView) apply(ev broker.StateEvent) bool {
	switch {
	case ev.Reset:
		// What was announced holds until it is announced anew: the registry only grows, and absence means nothing.
		return false
	case ev.Value == nil:
		return false
	case ev.Key == StateHead:
		var h RegistryHead
		if json.Unmarshal(ev.Value, &h) != nil || h.Owner == "" {
			return false
		}
		v.head = &h
		return true
	case strings.HasPrefix(ev.Key, StateTopicPrefix):
		var t RegistryTopic
		if json.Unmarshal(ev.Value, &t) == nil && t.Name != "" {
			v.topics[t.Name] = grownTopic(v.topics[t.Name], t)
			v.grown = true
			// Put again behind its head (by an owner that was thought dead, or one that repeats itself): no other head will follow.
			return v.head != nil && t.Version <= v.head.Version
		}
	}
	return false
}

// grownTopic joins what was announced before and now. An owner that was thought dead may announce an older state late, and one that
// lost its store knows less: what was made stays made, what was removed stays removed.
func grownTopic(known, t RegistryTopic) RegistryTopic {
	out := t
	if known.Version > t.Version {
		out = known
	}
	out.Subscriptions = nil
	at := map[string]int{}
	for _, s := range slices.Concat(known.Subscriptions, t.Subscriptions) {
		if i, ok := at[s.UID]; ok {
			out.Subscriptions[i].Removed = out.Subscriptions[i].Removed || s.Removed
			continue
		}
		at[s.UID] = len(out.Subscriptions)
		out.Subscriptions = append(out.Subscriptions, s)
	}
	return out
}

// decides reports whether head may decide about the outbox: of no lower version than recorded, by the recorded owner or
// by one that has taken in what this outbox knows.
func (m *memory) decides(head *RegistryHead) bool {
	if head == nil || head.Version < m.head.Version {
		return false
	}
	return m.head.Owner == "" || head.Owner == m.head.Owner || slices.Contains(head.Merged, m.uuid)
}

// catchUp takes the announced registry over if its head decides. New subscriptions own every row that is unreleased now.
func (r *Relay) catchUp(m *memory) {
	head := r.view.head
	if !m.decides(head) {
		if head != nil && m.head.Owner != "" && head.Owner != m.head.Owner {
			// Another owner that does not know this outbox yet: it will, from the report.
			m.caughtUp = false
			m.reportSoon = true
		}
		return
	}
	if m.caughtUp && !r.view.grown && head.Owner == m.head.Owner && head.Version == m.head.Version {
		return
	}
	r.view.grown = false
	for _, name := range slices.Sorted(maps.Keys(r.view.topics)) {
		t := r.view.topics[name]
		for _, s := range t.Subscriptions {
			r.learn(m, s)
		}
		t.Subscriptions = nil
		m.topics[name] = t
	}
	m.head = RegistryHead{Owner: head.Owner, Version: head.Version}
	m.caughtUp, m.registryDirty, m.reportSoon = true, true, true
}

func (r *Relay) learn(m *memory, s RegistrySubscription) {
	if _, gone := m.gone[s.UID]; gone {
		return
	}
	_, known := m.subs[s.UID]
	switch {
	case s.Removed:
		delete(m.subs, s.UID)
		m.gone[s.UID] = s
	case !known:
		c := newConfirmer(s)
		c.dirty = true
		m.subs[s.UID] = c
		if rows := m.win.topicSet(s.Topic); rows != nil {
			if acked := roaring64.And(rows, m.broker.bits); !acked.IsEmpty() {
				mk := newMark(acked)
				mk.only = s.UID
				m.marks[s.Topic] = append(m.marks[s.Topic], mk)
			}
		}
	}
}
