package topics_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

// court is an owner whose broker is played by the test: it records what is done there, keeps the state, and fails when told so.
type court struct {
	broker.Broker // what the owner must not use panics
	t             *testing.T
	store         topics.RegistryStore
	owner         *topics.Owner
	now           time.Time

	state map[string][]byte
	// queue are state changes the owner has not seen yet.
	queue []broker.StateEvent
	// made holds "topic NAME", "inbox NAME", "reader UID" as they stand on the broker; log is everything in order.
	made map[string]bool
	log  []string
	fail func(op string) error
}

func newCourt(t *testing.T, store topics.RegistryStore) *court {
	t.Helper()
	c := &court{t: t, store: store, now: time.Unix(1_750_000_000, 0), state: map[string][]byte{}, made: map[string]bool{}}
	c.restart()
	return c
}

func (c *court) restart() {
	c.owner = topics.NewOwner(c.store, c, topics.OwnerConfig{Now: func() time.Time { return c.now }})
}

func (c *court) do(op string) error {
	if c.fail != nil {
		if err := c.fail(op); err != nil {
			return err
		}
	}
	c.log = append(c.log, op)
	return nil
}

func (c *court) EnsureTopic(_ context.Context, t broker.TopicSpec) error {
	c.made["topic "+t.Name] = true
	return c.do("topic " + t.Name)
}

func (c *court) DeleteTopic(_ context.Context, name string) error {
	delete(c.made, "topic "+name)
	return c.do("delete topic " + name)
}

func (c *court) EnsureSubscription(_ context.Context, s broker.SubscriptionSpec) error {
	c.made["reader "+s.UID] = true
	if s.Since > 0 {
		return c.do("reader since " + s.UID)
	}
	return c.do("reader " + s.UID)
}

func (c *court) DeleteSubscription(_ context.Context, _, uid string) error {
	delete(c.made, "reader "+uid)
	return c.do("delete reader " + uid)
}

func (c *court) EnsureInbox(_ context.Context, name string) error {
	c.made["inbox "+name] = true
	return c.do("inbox " + name)
}

func (c *court) DeleteInbox(_ context.Context, name string) error {
	delete(c.made, "inbox "+name)
	return c.do("delete inbox " + name)
}

func (c *court) PutState(_ context.Context, key string, value []byte) error {
	if err := c.do("put " + key); err != nil {
		return err
	}
	c.state[key] = value
	c.queue = append(c.queue, broker.StateEvent{Key: key, Value: value})
	return nil
}

func (c *court) DeleteState(_ context.Context, key string) error {
	if err := c.do("delete " + key); err != nil {
		return err
	}
	delete(c.state, key)
	c.queue = append(c.queue, broker.StateEvent{Key: key})
	return nil
}

// watch begins a watch: everything there is, then Current.
func (c *court) watch() {
	c.queue = nil
	for _, key := range slices.Sorted(maps.Keys(c.state)) {
		c.queue = append(c.queue, broker.StateEvent{Key: key, Value: c.state[key]})
	}
	c.queue = append(c.queue, broker.StateEvent{Current: true})
	_ = c.see()
}

// wipe loses everything on the broker, as the owner's watch tells it.
func (c *court) wipe() {
	clear(c.state)
	clear(c.made)
	c.queue = []broker.StateEvent{{Reset: true}, {Current: true}}
	_ = c.see()
}

// see shows the owner what has changed, until nothing changes any more.
func (c *court) see() (err error) {
	c.t.Helper()
	for n := 0; len(c.queue) > 0; n++ {
		if n > 1000 {
			c.t.Fatal("the owner never comes to rest")
		}
		ev := c.queue[0]
		c.queue = c.queue[1:]
		err = errors.Join(err, c.owner.OnState(c.t.Context(), ev))
	}
	return err
}

func (c *court) put(key string, v any) {
	c.t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := c.PutState(c.t.Context(), key, b); err != nil {
		c.t.Fatal(err)
	}
}

func (c *court) declare(d topics.Declaration) {
	c.t.Helper()
	key := outbox.StateDeclarePrefix + d.Topic
	if d.Subscription != "" {
		key += "." + d.Subscription
	}
	c.put(key, d)
}

func (c *court) report(r outbox.Report) {
	c.t.Helper()
	c.put(outbox.StateReportPrefix+r.Outbox, r)
}

// announced is the topic as everybody sees it.
func (c *court) announced(name string) (topic outbox.RegistryTopic) {
	c.t.Helper()
	if v := c.state[outbox.StateTopicPrefix+name]; v != nil {
		if err := json.Unmarshal(v, &topic); err != nil {
			c.t.Fatal(err)
		}
	}
	return topic
}

func (c *court) head() (head outbox.RegistryHead) {
	c.t.Helper()
	if v := c.state[outbox.StateHead]; v != nil {
		if err := json.Unmarshal(v, &head); err != nil {
			c.t.Fatal(err)
		}
	}
	return head
}

func (c *court) at(op string) int {
	return slices.IndexFunc(c.log, func(s string) bool { return strings.HasPrefix(s, op) })
}

func keyed() outbox.TopicSettings {
	return outbox.TopicSettings{Delivery: outbox.DeliveryConfirmed, NoSubscribers: outbox.NoSubscribersHold, Keyed: true}
}
