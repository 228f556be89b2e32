package topics

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twostep-mq/twostep/outbox"
)

// SubscriptionState says how far a subscription is.
type SubscriptionState string

const (
	// Registered: the owner has made it.
	Registered SubscriptionState = "registered"
	// Active: every known outbox's report names it; from here on it is promised every message.
	Active SubscriptionState = "active"
	// Removed: nobody waits for it any more.
	Removed SubscriptionState = "removed"
)

// TopicInfo is a topic as it is shown.
type TopicInfo struct {
	Name string
	outbox.TopicSettings
	// Version of the registry at its last change.
	Version       int64
	Subscriptions []SubscriptionInfo
}

// SubscriptionInfo is a subscription as it is shown.
type SubscriptionInfo struct {
	UID, Topic, Name string
	Created          time.Time
	State            SubscriptionState
	// Waiting counts the rows of all reported outboxes that lack its word.
	Waiting int64
	// MissingFrom lists the outboxes (UUIDs) that have not recorded it, while it is registered.
	MissingFrom []string
}

// OutboxInfo is an outbox as it is shown.
type OutboxInfo struct {
	UUID, Name string
	// Report is its relay's last one; nil: none since the owner started.
	Report *outbox.Report
	// Age of the report, by the relay's clock and this one; not below 0.
	Age       time.Duration
	Forgotten bool
}

// Left is what the deletion of a topic leaves in an outbox.
type Left struct {
	Outbox, Name string
	// Rows at least this many rows of the topic are not released (0: their number is not known).
	Rows int64
	// Age of the report that says so.
	Age time.Duration
}

// Version is the owner's UUID and the version of its registry; empty until it was loaded.
func (o *Owner) Version() (owner string, version int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.reg.owner, o.reg.version
}

// Running reports whether the owner has read its store and the broker's state.
func (o *Owner) Running() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.loaded && o.heard.current
}

// Topics lists all topics that are not deleted, by name.
func (o *Owner) Topics() []TopicInfo {
	o.mu.Lock()
	defer o.mu.Unlock()
	infos := []TopicInfo{}
	for _, name := range sortedKeys(o.reg.topics) {
		if t := o.reg.topics[name]; !t.Deleted {
			infos = append(infos, o.topicInfo(t))
		}
	}
	return infos
}

// Topic shows one topic; ErrUnknownTopic if there is none.
func (o *Owner) Topic(name string) (TopicInfo, error) {
	t, err := o.liveTopic(name)
	if err != nil {
		return TopicInfo{}, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.topicInfo(t), nil
}

// Outboxes lists all outboxes that ever reported, by name.
func (o *Owner) Outboxes() []OutboxInfo {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := o.cfg.Now()
	infos := []OutboxInfo{}
	for _, id := range sortedKeys(o.reg.outboxes) {
		b := o.reg.outboxes[id]
		info := OutboxInfo{UUID: b.UUID, Name: b.Name, Forgotten: b.Forgotten}
		if r, ok := o.heard.reports[id]; ok {
			info.Report, info.Age = &r.Report, r.age(now)
		}
		infos = append(infos, info)
	}
	slices.SortStableFunc(infos, func(a, b OutboxInfo) int { return strings.Compare(a.Name, b.Name) })
	return infos
}

func (r heardReport) age(now time.Time) time.Duration {
	made := r.at
	if r.At > 0 {
		made = time.UnixMilli(r.At)
	}
	return max(now.Sub(made), 0)
}

// topicInfo needs mu.
func (o *Owner) topicInfo(t outbox.RegistryTopic) TopicInfo {
	info := TopicInfo{Name: t.Name, TopicSettings: t.TopicSettings, Version: t.Version, Subscriptions: []SubscriptionInfo{}}
	for _, s := range t.Subscriptions {
		si := SubscriptionInfo{UID: s.UID, Topic: s.Topic, Name: s.Name, Created: time.Unix(0, s.Created)}
		for _, id := range sortedKeys(o.reg.outboxes) {
			if o.reg.outboxes[id].Forgotten {
				continue
			}
			r, ok := o.heard.reports[id]
			if ok {
				si.Waiting += r.WaitingFor[s.UID]
			}
			if !ok || !slices.ContainsFunc(r.Subscriptions, func(x outbox.RegistrySubscription) bool { return x.UID == s.UID }) {
				si.MissingFrom = append(si.MissingFrom, id)
			}
		}
		switch {
		case s.Removed:
			si.State, si.MissingFrom = Removed, nil
		case len(si.MissingFrom) == 0:
			si.State = Active
		default:
			si.State = Registered
		}
		info.Subscriptions = append(info.Subscriptions, si)
	}
	return info
}

// left lists the outboxes that, by their relays' last reports, have or may have unreleased rows of the topic.
func (o *Owner) left(t outbox.RegistryTopic) []Left {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := o.cfg.Now()
	var all []Left
	for _, id := range sortedKeys(o.heard.reports) {
		r := o.heard.reports[id]
		l := Left{Outbox: id, Name: r.Name, Age: r.age(now)}
		subscribed := false
		for _, s := range t.Subscriptions {
			l.Rows = max(l.Rows, r.WaitingFor[s.UID])
			subscribed = subscribed || !s.Removed
		}
		// Rows that wait for the broker, or that nobody subscribes to, are not counted by topic.
		may := slices.Contains(r.Topics, t.Name) && (r.Unpublished > 0 || !subscribed && r.Backlog > 0)
		if l.Rows > 0 || may {
			all = append(all, l)
		}
	}
	return all
}

func describeLeft(left []Left) string {
	parts := make([]string, len(left))
	for i, l := range left {
		rows := "rows"
		if l.Rows > 0 {
			rows = fmt.Sprintf("at least %d rows", l.Rows)
		}
		parts[i] = fmt.Sprintf("outbox %s (%s) has %s not released, reported %s ago", l.Name, l.Outbox, rows, l.Age.Round(time.Second))
	}
	return strings.Join(parts, "; ")
}
