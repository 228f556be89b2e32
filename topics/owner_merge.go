package topics

import (
	"fmt"
	"slices"

	"github.com/twostep-mq/twostep/outbox"
)

// merge collects what others know and the registry does not. It is pure.
type merge struct {
	reg     registry
	changed map[string]outbox.RegistryTopic
	// outboxes that are new, or came back after they were forgotten.
	outboxes []RegistryOutbox
	// removed are subscriptions that others know to be removed.
	removed  []outbox.RegistrySubscription
	warnings []string
}

func newMerge(reg registry) *merge {
	return &merge{reg: reg, changed: map[string]outbox.RegistryTopic{}}
}

func (m *merge) empty() bool { return len(m.changed) == 0 && len(m.outboxes) == 0 }

func (m *merge) changedTopics() []outbox.RegistryTopic {
	var ts []outbox.RegistryTopic
	for _, name := range sortedKeys(m.changed) {
		ts = append(ts, m.changed[name])
	}
	return ts
}

// topic returns the topic as it is by now; its subscriptions are a copy.
func (m *merge) topic(name string) (outbox.RegistryTopic, bool) {
	if t, ok := m.changed[name]; ok {
		return t, true
	}
	t, ok := m.reg.topics[name]
	t.Subscriptions = slices.Clone(t.Subscriptions)
	return t, ok
}

// announced takes in a topic as another owner, or this one in another life, announced it.
func (m *merge) announced(t outbox.RegistryTopic) {
	have, ok := m.topic(t.Name)
	switch {
	case !ok:
		m.changed[t.Name] = outbox.RegistryTopic{Name: t.Name, TopicSettings: t.TopicSettings, Deleted: t.Deleted}
	case t.Version > have.Version && (have.TopicSettings != t.TopicSettings || have.Deleted != t.Deleted):
		have.TopicSettings, have.Deleted = t.TopicSettings, t.Deleted
		m.changed[t.Name] = have
	}
	for _, s := range t.Subscriptions {
		m.subscription(s)
	}
}

// reported takes in what an outbox has recorded.
func (m *merge) reported(r outbox.Report) {
	if have, ok := m.reg.outboxes[r.Outbox]; !ok || have.Forgotten || have.Name != r.Name {
		if have.Forgotten {
			m.warnings = append(m.warnings, fmt.Sprintf("outbox %s (%s) was forgotten and reports again: it counts again", r.Name, r.Outbox))
		}
		m.outboxes = append(m.outboxes, RegistryOutbox{UUID: r.Outbox, Name: r.Name})
	}
	for _, name := range r.Topics {
		if _, ok := m.topic(name); !ok {
			m.newTopic(name)
		}
	}
	for _, s := range r.Subscriptions {
		m.subscription(s)
	}
}

func (m *merge) newTopic(name string) bool {
	s := withDefaultSettings(outbox.TopicSettings{})
	if err := checkTopic(name, s); err != nil {
		m.warnings = append(m.warnings, fmt.Sprintf("a relay reports an impossible topic: %v", err))
		return false
	}
	m.changed[name] = outbox.RegistryTopic{Name: name, TopicSettings: s}
	return true
}

// subscription takes in one subscription: unknown ones are added, removals are believed. Of two that carry one name the older stays,
// since it holds the barrier rows.
func (m *merge) subscription(s outbox.RegistrySubscription) {
	t, ok := m.topic(s.Topic)
	if !ok {
		if !m.newTopic(s.Topic) {
			return
		}
		t = m.changed[s.Topic]
	}
	i := slices.IndexFunc(t.Subscriptions, func(x outbox.RegistrySubscription) bool { return x.UID == s.UID })
	switch {
	case i < 0 && (s.UID == "" || checkSubscription(s.Topic, s.Name) != nil):
		m.warnings = append(m.warnings, fmt.Sprintf("an impossible subscription %q of topic %s is ignored", s.Name, s.Topic))
		return
	case i < 0:
		t.Subscriptions = append(t.Subscriptions, s)
		t.Deleted = t.Deleted && s.Removed
		m.warnings = append(m.warnings, fmt.Sprintf("subscription %s/%s (%s) was known to others and is taken over", s.Topic, s.Name, s.UID))
	case s.Removed && !t.Subscriptions[i].Removed:
		t.Subscriptions[i].Removed = true
		m.removed = append(m.removed, t.Subscriptions[i])
	default:
		return
	}
	m.keepOldest(&t, s.Name)
	m.changed[s.Topic] = t
}

func (m *merge) keepOldest(t *outbox.RegistryTopic, name string) {
	oldest, ok := liveSubscription(*t, name)
	if !ok {
		return
	}
	for i, s := range t.Subscriptions {
		if s.Name == name && !s.Removed && s.UID != oldest.UID {
			t.Subscriptions[i].Removed = true
			m.removed = append(m.removed, t.Subscriptions[i])
			m.warnings = append(m.warnings, fmt.Sprintf("subscription %s/%s was made twice: %s stays, %s is removed", t.Name, name, oldest.UID, s.UID))
		}
	}
}
