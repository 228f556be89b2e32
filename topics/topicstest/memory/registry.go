package memory

import (
	"context"
	"maps"
	"slices"

	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

// Registry is a topics.RegistryStore.
type Registry struct {
	owner    string
	version  int64
	topics   map[string]outbox.RegistryTopic
	outboxes map[string]topics.RegistryOutbox
}

var _ topics.RegistryStore = (*Registry)(nil)

// NewRegistry makes an empty registry with the given owner's UUID.
func NewRegistry(owner string) *Registry {
	return &Registry{owner: owner, topics: map[string]outbox.RegistryTopic{}, outboxes: map[string]topics.RegistryOutbox{}}
}

// LoadRegistry implements topics.RegistryStore.
func (r *Registry) LoadRegistry(ctx context.Context) (topics.Registry, error) {
	if err := ctx.Err(); err != nil {
		return topics.Registry{}, err
	}
	reg := topics.Registry{Owner: r.owner, Version: r.version}
	for _, name := range slices.Sorted(maps.Keys(r.topics)) {
		t := r.topics[name]
		t.Subscriptions = slices.Clone(t.Subscriptions)
		reg.Topics = append(reg.Topics, t)
	}
	for _, id := range slices.Sorted(maps.Keys(r.outboxes)) {
		reg.Outboxes = append(reg.Outboxes, r.outboxes[id])
	}
	return reg, nil
}

// ApplyRegistry implements topics.RegistryStore.
func (r *Registry) ApplyRegistry(ctx context.Context, from int64, c topics.RegistryChange) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if r.version != from {
		return topics.ErrConflict
	}
	r.version = c.Version
	for _, t := range c.Topics {
		was := r.topics[t.Name].Subscriptions
		subs := slices.Clone(was)
		for _, s := range t.Subscriptions {
			i := slices.IndexFunc(subs, func(o outbox.RegistrySubscription) bool { return o.UID == s.UID })
			if i < 0 {
				subs = append(subs, s)
			} else {
				subs[i] = s
			}
		}
		t.Subscriptions = subs
		r.topics[t.Name] = t
	}
	for _, o := range c.Outboxes {
		r.outboxes[o.UUID] = o
	}
	return nil
}
