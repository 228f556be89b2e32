package topics

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/outbox"
)

// takeIn merges what relays and other owners know into the registry: it only grows.
func (o *Owner) takeIn(ctx context.Context) error {
	o.mu.Lock()
	topics, reports, takeover := o.todo.topics, o.todo.reports, o.todo.takeover
	o.todo.topics, o.todo.reports, o.todo.takeover = map[string]outbox.RegistryTopic{}, map[string]outbox.Report{}, false
	m := newMerge(o.reg)
	// Two owners that answered each other's announcements would do so for ever; a relay's report, and the beginning, are answered.
	raise := takeover && o.heard.outdone(o.reg.owner, o.reg.version)
	for _, r := range reports {
		raise = raise || r.Version > o.reg.version || r.Version == o.reg.version && r.Owner != "" && r.Owner != o.reg.owner
	}
	o.mu.Unlock()

	for _, name := range sortedKeys(topics) {
		m.announced(topics[name])
	}
	for _, id := range sortedKeys(reports) {
		m.reported(reports[id])
	}
	if !m.empty() || raise {
		if err := o.change(ctx, m.changedTopics(), m.outboxes); err != nil {
			o.mu.Lock()
			defer o.mu.Unlock()
			putBack(o.todo.topics, topics)
			putBack(o.todo.reports, reports)
			o.todo.takeover = o.todo.takeover || takeover
			return err
		}
	}
	for _, w := range m.warnings {
		o.log.Warn("registry", "what", w)
	}
	o.merged(m, takeover)
	return nil
}

// putBack notes again what could not be done, unless something newer was noted meanwhile.
func putBack[V any](todo, left map[string]V) {
	for k, v := range left {
		if _, newer := todo[k]; !newer {
			todo[k] = v
		}
	}
}

// merged notes what has to be done on the broker after a merge.
func (o *Owner) merged(m *merge, takeover bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for name := range m.changed {
		o.todo.ensure[name] = true
	}
	for _, s := range m.removed {
		o.todo.remove[s.UID] = s
	}
	if takeover {
		o.todo.head = true
		for name := range o.reg.topics {
			o.todo.ensure[name], o.todo.announce[name] = true, true
		}
	}
}

// handleDeclarations makes what services declared. One that cannot be made does not keep the others from it.
func (o *Owner) handleDeclarations(ctx context.Context) error {
	o.mu.Lock()
	asked := maps.Clone(o.todo.declarations)
	o.mu.Unlock()
	var errs []error
	for _, key := range sortedKeys(asked) {
		if err := o.handleDeclaration(ctx, asked[key]); err != nil {
			errs = append(errs, err)
			if !o.knowsStore() {
				break
			}
			continue
		}
		o.mu.Lock()
		if o.todo.declarations[key] == asked[key] {
			delete(o.todo.declarations, key)
		}
		o.mu.Unlock()
	}
	return errors.Join(errs...)
}

func (o *Owner) handleDeclaration(ctx context.Context, d Declaration) error {
	if d.UID != "" {
		return o.takeBack(ctx, d)
	}
	t, ok := o.topic(d.Topic)
	switch {
	case !ok || t.Deleted:
		t.Name, t.TopicSettings, t.Deleted = d.Topic, d.Settings, false
	case t.TopicSettings != d.Settings && len(t.Subscriptions) == 0:
		// Made from a relay's report or another declaration, and nobody relies on its settings yet.
		o.log.Info("topic takes its settings from a declaration", "topic", d.Topic, "from", t.TopicSettings, "to", d.Settings)
		t.TopicSettings = d.Settings
	case t.TopicSettings != d.Settings:
		o.log.Warn("declaration has other settings than the topic: the topic's count", "topic", d.Topic, "subscription", d.Subscription, "topic_settings", t.TopicSettings, "declared", d.Settings)
		fallthrough
	default:
		if _, have := liveSubscription(t, d.Subscription); have || d.Subscription == "" {
			return nil
		}
	}
	if d.Subscription == "" {
		return o.storeTopic(ctx, t)
	}
	_, err := o.storeSubscription(ctx, t, d.Subscription)
	return err
}

// takeBack takes in a subscription that a service was given once and the registry does not know: it was lost, with the broker.
func (o *Owner) takeBack(ctx context.Context, d Declaration) error {
	o.mu.Lock()
	m := newMerge(o.reg)
	_, known := o.reg.topics[d.Topic]
	o.mu.Unlock()
	m.subscription(outbox.RegistrySubscription{UID: d.UID, Topic: d.Topic, Name: d.Subscription, Created: d.Created})
	if m.empty() {
		return nil
	}
	if t := m.changed[d.Topic]; !known {
		t.TopicSettings = d.Settings
		m.changed[d.Topic] = t
	}
	if err := o.change(ctx, m.changedTopics(), nil); err != nil {
		return err
	}
	for _, w := range m.warnings {
		o.log.Warn("registry", "what", w)
	}
	o.merged(m, false)
	return nil
}

// storeTopic makes the topic on the broker and then in the store.
func (o *Owner) storeTopic(ctx context.Context, t outbox.RegistryTopic) error {
	if err := o.ensureTopic(ctx, t); err != nil {
		return err
	}
	if err := o.change(ctx, []outbox.RegistryTopic{t}, nil); err != nil {
		return err
	}
	o.log.Info("topic made", "topic", t.Name, "delivery", t.Delivery, "no_subscribers", t.NoSubscribers, "keyed", t.Keyed)
	return nil
}

// storeSubscription makes the subscription on the broker and then in the store, so that it is never promised what was published before
// its reader stood.
func (o *Owner) storeSubscription(ctx context.Context, t outbox.RegistryTopic, name string) (outbox.RegistrySubscription, error) {
	s := outbox.RegistrySubscription{UID: o.cfg.NewUID(), Topic: t.Name, Name: name, Created: o.cfg.Now().UnixNano()}
	if err := o.ensureTopic(ctx, t); err != nil {
		return s, err
	}
	err := o.ensureSubscription(ctx, t, s, false)
	if err == nil {
		t.Subscriptions = append(t.Subscriptions, s)
		err = o.change(ctx, []outbox.RegistryTopic{t}, nil)
	}
	if err != nil {
		// What stands on the broker goes again, unless the store turns out to have taken it.
		o.mu.Lock()
		defer o.mu.Unlock()
		o.todo.remove[s.UID] = s
		return s, err
	}
	o.log.Info("subscription made", "topic", t.Name, "subscription", s.Name, "uid", s.UID)
	return s, nil
}

func (o *Owner) ensureTopic(ctx context.Context, t outbox.RegistryTopic) error {
	if err := o.b.EnsureTopic(ctx, broker.TopicSpec{Name: t.Name, Retained: t.Delivery == outbox.DeliveryBroker}); err != nil {
		return fmt.Errorf("topics: make topic %s on the broker: %w", t.Name, err)
	}
	return nil
}

// ensureSubscription makes the inbox and the reader. existed: it is not made now, so the reader begins at its Created.
func (o *Owner) ensureSubscription(ctx context.Context, t outbox.RegistryTopic, s outbox.RegistrySubscription, existed bool) error {
	if err := o.b.EnsureInbox(ctx, outbox.SubscriptionInbox(s.UID)); err != nil {
		return fmt.Errorf("topics: make the inbox of %s/%s on the broker: %w", t.Name, s.Name, err)
	}
	spec := broker.SubscriptionSpec{UID: s.UID, Topic: t.Name, Keyed: t.Keyed}
	if existed {
		spec.Since = s.Created
	}
	if err := o.b.EnsureSubscription(ctx, spec); err != nil {
		return fmt.Errorf("topics: make the reader of %s/%s on the broker: %w", t.Name, s.Name, err)
	}
	return nil
}

// makeOnBroker makes what the registry has and the broker may lack.
func (o *Owner) makeOnBroker(ctx context.Context) error {
	o.mu.Lock()
	names := sortedKeys(o.todo.ensure)
	o.mu.Unlock()
	var errs []error
	for _, name := range names {
		if err := o.ensureAll(ctx, name); err != nil {
			errs = append(errs, err)
			continue
		}
		o.mu.Lock()
		delete(o.todo.ensure, name)
		o.mu.Unlock()
	}
	return errors.Join(errs...)
}

func (o *Owner) ensureAll(ctx context.Context, name string) error {
	t, ok := o.topic(name)
	if !ok || t.Deleted {
		return nil
	}
	if err := o.ensureTopic(ctx, t); err != nil {
		return err
	}
	for _, s := range t.Subscriptions {
		if s.Removed {
			continue
		}
		if err := o.ensureSubscription(ctx, t, s, true); err != nil {
			return err
		}
	}
	return nil
}

// announce puts what changed, and the head last: who has seen a head has seen all it stands for.
func (o *Owner) announce(ctx context.Context) error {
	o.mu.Lock()
	names := sortedKeys(o.todo.announce)
	o.mu.Unlock()
	for _, name := range names {
		t, ok := o.topic(name)
		if ok {
			if t.Subscriptions == nil {
				t.Subscriptions = []outbox.RegistrySubscription{}
			}
			if err := o.put(ctx, outbox.StateTopicPrefix+name, t); err != nil {
				return err
			}
		}
		o.mu.Lock()
		delete(o.todo.announce, name)
		o.mu.Unlock()
	}
	o.mu.Lock()
	due := o.todo.head
	head := outbox.RegistryHead{Owner: o.reg.owner, Version: o.reg.version}
	for _, id := range sortedKeys(o.reg.outboxes) {
		if !o.reg.outboxes[id].Forgotten {
			head.Merged = append(head.Merged, id)
		}
	}
	o.mu.Unlock()
	if !due {
		return nil
	}
	if err := o.put(ctx, outbox.StateHead, head); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.todo.head = false
	return nil
}

func (o *Owner) put(ctx context.Context, key string, v any) error {
	value, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("topics: encode %s: %w", key, err)
	}
	if err := o.b.PutState(ctx, key, value); err != nil {
		return fmt.Errorf("topics: announce %s: %w", key, err)
	}
	return nil
}

// removeFromBroker takes away what nobody reads any more.
func (o *Owner) removeFromBroker(ctx context.Context) error {
	o.mu.Lock()
	remove, drop := maps.Clone(o.todo.remove), sortedKeys(o.todo.drop)
	o.mu.Unlock()
	if !o.knowsStore() {
		return nil // nor what the store has taken; the change that failed is tried again, and this with it
	}
	var errs []error
	for _, uid := range sortedKeys(remove) {
		if o.live(remove[uid]) {
			o.mu.Lock()
			delete(o.todo.remove, uid)
			o.mu.Unlock()
			continue
		}
		err := errors.Join(o.b.DeleteSubscription(ctx, remove[uid].Topic, uid), o.b.DeleteInbox(ctx, outbox.SubscriptionInbox(uid)))
		if err != nil {
			errs = append(errs, fmt.Errorf("topics: remove %s/%s from the broker: %w", remove[uid].Topic, remove[uid].Name, err))
			continue
		}
		o.mu.Lock()
		delete(o.todo.remove, uid)
		o.mu.Unlock()
	}
	for _, name := range drop {
		if t, ok := o.topic(name); ok && t.Deleted {
			if err := o.b.DeleteTopic(ctx, name); err != nil {
				errs = append(errs, fmt.Errorf("topics: remove topic %s from the broker: %w", name, err))
				continue
			}
		}
		o.mu.Lock()
		delete(o.todo.drop, name)
		o.mu.Unlock()
	}
	return errors.Join(errs...)
}

// live reports whether the registry has the subscription, not removed.
func (o *Owner) live(s outbox.RegistrySubscription) bool {
	t, _ := o.topic(s.Topic)
	return slices.ContainsFunc(t.Subscriptions, func(x outbox.RegistrySubscription) bool { return x.UID == s.UID && !x.Removed })
}
