package topics

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/outbox"
)

// registryView is the registry as its announcements tell it. It only grows, as the registry does: what is lost with the broker stays
// known here, and a topic's newer version wins.
type registryView struct {
	log    *slog.Logger
	mu     sync.Mutex
	topics map[string]outbox.RegistryTopic
	// complete: since the watch began (or the state was lost) all entries and a head were seen, so that absence says something.
	current, head bool
	// losses counts how often the state was lost, and with it declarations.
	losses int
	// changed is closed at the next change.
	changed chan struct{}
}

func newRegistryView(log *slog.Logger) *registryView {
	return &registryView{log: log, topics: map[string]outbox.RegistryTopic{}, changed: make(chan struct{})}
}

// onState takes in one event of the state below registryPrefix.
func (v *registryView) onState(ev broker.StateEvent) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case ev.Reset:
		v.current, v.head = false, false
		v.losses++
	case ev.Current:
		v.current = true
	case ev.Value == nil:
		return nil // absence means nothing
	case ev.Key == outbox.StateHead:
		v.head = true
	case strings.HasPrefix(ev.Key, outbox.StateTopicPrefix):
		var t outbox.RegistryTopic
		if err := json.Unmarshal(ev.Value, &t); err != nil {
			v.log.Error("registry entry is malformed and ignored", "key", ev.Key, "error", err)
			return nil
		}
		if known, ok := v.topics[t.Name]; ok && known.Version > t.Version {
			return nil
		}
		v.topics[t.Name] = t
	default:
		return nil
	}
	close(v.changed)
	v.changed = make(chan struct{})
	return nil
}

// look is what the view tells of one topic and subscription.
type look struct {
	topic      outbox.RegistryTopic
	topicKnown bool
	sub        outbox.RegistrySubscription
	subscribed bool
	// current: all there was has been read. complete: a head, too, so that what is missing does not exist.
	current, complete bool
	losses            int
	changed           <-chan struct{}
}

func (v *registryView) look(topic, subscription string) look {
	v.mu.Lock()
	defer v.mu.Unlock()
	l := look{current: v.current, complete: v.current && v.head, losses: v.losses, changed: v.changed}
	l.topic, l.topicKnown = v.topics[topic]
	l.topicKnown = l.topicKnown && !l.topic.Deleted
	l.sub, l.subscribed = liveSubscription(l.topic, subscription)
	l.subscribed = l.subscribed && l.topicKnown
	return l
}

// waitComplete waits until the registry has been read; false if ctx ended first.
func (v *registryView) waitComplete(ctx context.Context) bool {
	for {
		l := v.look("", "")
		if l.complete {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-l.changed:
		}
	}
}

// removed reports whether the registry says that the subscription was removed.
func (v *registryView) removed(topic, uid string) (removed bool, changed <-chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	t := v.topics[topic]
	for _, s := range t.Subscriptions {
		if s.UID == uid && s.Removed {
			return true, v.changed
		}
	}
	return t.Deleted, v.changed
}

// liveSubscription finds a subscription by name that is not removed. Where two carry the name, the older one counts: it holds the barrier rows.
func liveSubscription(t outbox.RegistryTopic, name string) (found outbox.RegistrySubscription, ok bool) {
	for _, s := range t.Subscriptions {
		if s.Name == name && !s.Removed && (!ok || s.Created < found.Created) {
			found, ok = s, true
		}
	}
	return found, ok
}
