package topics

import (
	"context"
	"errors"
	"fmt"

	"github.com/twostep-mq/twostep/outbox"
)

// CreateTopic makes a topic; empty settings are the defaults (confirmed, hold). One that is there with the same settings is no error,
// with others it is ErrTopicExists.
func (o *Owner) CreateTopic(ctx context.Context, name string, settings outbox.TopicSettings) (TopicInfo, error) {
	settings = withDefaultSettings(settings)
	if err := checkTopic(name, settings); err != nil {
		return TopicInfo{}, err
	}
	err := o.command(ctx, func() error {
		t, ok := o.topic(name)
		if ok && !t.Deleted {
			if t.TopicSettings != settings {
				return fmt.Errorf("%w: %s has delivery %s, no_subscribers %s, keyed %t: delete it first, or take another name", ErrTopicExists, name, t.Delivery, t.NoSubscribers, t.Keyed)
			}
			return nil
		}
		t.Name, t.TopicSettings, t.Deleted = name, settings, false
		return o.storeTopic(ctx, t)
	})
	if err != nil {
		return TopicInfo{}, err
	}
	return o.Topic(name)
}

// Subscribe makes a subscription, or returns the one of that name.
func (o *Owner) Subscribe(ctx context.Context, topic, name string) (outbox.RegistrySubscription, error) {
	var s outbox.RegistrySubscription
	if err := checkSubscription(topic, name); err != nil {
		return s, err
	}
	err := o.command(ctx, func() error {
		t, err := o.liveTopic(topic)
		if err != nil {
			return err
		}
		var ok bool
		if s, ok = liveSubscription(t, name); ok {
			return nil
		}
		s, err = o.storeSubscription(ctx, t, name)
		return err
	})
	return s, err
}

// Unsubscribe removes a subscription: nobody waits for it any more, its messages on the broker and in its inbox go; what it has parked
// stays in its database. Its uid never returns.
func (o *Owner) Unsubscribe(ctx context.Context, topic, name string) (outbox.RegistrySubscription, error) {
	var s outbox.RegistrySubscription
	err := o.command(ctx, func() error {
		t, err := o.liveTopic(topic)
		if err != nil {
			return err
		}
		var ok bool
		if s, ok = liveSubscription(t, name); !ok {
			return fmt.Errorf("%w %q of topic %q: see twostep topics show %s", ErrUnknownSubscription, name, topic, topic)
		}
		if err := o.removeSubscriptions(ctx, &t, func(x outbox.RegistrySubscription) bool { return x.UID == s.UID }); err != nil {
			return err
		}
		s.Removed = true
		o.log.Info("subscription removed", "topic", topic, "subscription", name, "uid", s.UID)
		return nil
	})
	return s, err
}

// removeSubscriptions marks subscriptions of t as removed, and stores t. Their declarations go first: one left behind would bring
// them back at the owner's next start.
func (o *Owner) removeSubscriptions(ctx context.Context, t *outbox.RegistryTopic, which func(outbox.RegistrySubscription) bool) error {
	gone := map[string]outbox.RegistrySubscription{}
	for i, s := range t.Subscriptions {
		if s.Removed || !which(s) {
			continue
		}
		key := declarationKey(t.Name, s.Name)
		if err := o.b.DeleteState(ctx, key); err != nil {
			return fmt.Errorf("topics: withdraw %s: %w", key, err)
		}
		o.mu.Lock()
		delete(o.todo.declarations, key)
		o.mu.Unlock()
		t.Subscriptions[i].Removed = true
		gone[s.UID] = s
	}
	if err := o.change(ctx, []outbox.RegistryTopic{*t}, nil); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for uid, s := range gone {
		o.todo.remove[uid] = s
	}
	return nil
}

// DeleteTopic deletes a topic with its subscriptions. While relays report rows of it that are not released it is ErrInFlight, unless
// forced; Left says what a deletion leaves.
func (o *Owner) DeleteTopic(ctx context.Context, name string, force bool) (left []Left, err error) {
	err = o.command(ctx, func() error {
		t, err := o.liveTopic(name)
		if err != nil {
			return err
		}
		left = o.left(t)
		if len(left) > 0 && !force {
			return fmt.Errorf("%w: topic %s: %s: wait for them, or force it, which leaves them where they are", ErrInFlight, name, describeLeft(left))
		}
		key := declarationKey(name, "")
		if err := o.b.DeleteState(ctx, key); err != nil {
			return fmt.Errorf("topics: withdraw %s: %w", key, err)
		}
		t.Deleted = true
		if err := o.removeSubscriptions(ctx, &t, func(outbox.RegistrySubscription) bool { return true }); err != nil {
			return err
		}
		o.mu.Lock()
		o.todo.drop[name] = true
		o.mu.Unlock()
		o.log.Warn("topic deleted", "topic", name, "forced", force, "left", len(left))
		return nil
	})
	return left, err
}

// ForgetOutbox says that an outbox will never be heard of again: nobody waits for its relay any more. If its relay reports all the
// same, the outbox is known again.
func (o *Owner) ForgetOutbox(ctx context.Context, uuid string) error {
	return o.command(ctx, func() error {
		o.mu.Lock()
		b, ok := o.reg.outboxes[uuid]
		o.mu.Unlock()
		if !ok {
			return fmt.Errorf("%w %q: see twostep outbox list", ErrUnknownOutbox, uuid)
		}
		if err := o.b.DeleteState(ctx, outbox.StateReportPrefix+uuid); err != nil {
			return fmt.Errorf("topics: delete the last report of outbox %s: %w", uuid, err)
		}
		b.Forgotten = true
		if err := o.change(ctx, nil, []RegistryOutbox{b}); err != nil {
			return err
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.heard.reports, uuid)
		delete(o.todo.reports, uuid)
		o.log.Warn("outbox forgotten", "outbox", uuid, "name", b.Name)
		return nil
	})
}

// command makes one change and announces it. Once it is stored, it is done: what the broker does not take now is repeated in the
// background.
func (o *Owner) command(ctx context.Context, fn func() error) error {
	o.work.Lock()
	defer o.work.Unlock()
	if !o.readable() {
		return ErrNotRunning
	}
	if err := o.settleLocked(ctx); err != nil {
		o.log.Warn("registry: not finished before a command", "error", err)
		o.retrySoon()
	}
	err := o.retryConflicts(ctx, func() error {
		if err := o.load(ctx); err != nil {
			return err
		}
		return fn()
	})
	if err != nil {
		o.retrySoon()
		return err
	}
	if err := errors.Join(o.announce(ctx), o.removeFromBroker(ctx)); err != nil {
		o.log.Warn("registry: stored, and announced later", "error", err)
		o.retrySoon()
	}
	return nil
}

func (o *Owner) liveTopic(name string) (outbox.RegistryTopic, error) {
	t, ok := o.topic(name)
	if !ok || t.Deleted {
		return t, fmt.Errorf("%w %q: make it with: twostep topics create %s", ErrUnknownTopic, name, name)
	}
	return t, nil
}
