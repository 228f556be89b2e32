package kafka

import (
	"context"
	"errors"
	"sync"

	"github.com/twostep-mq/twostep/broker"
)

// topicCache remembers what the cluster said of topics. An incarnation that is remembered was read before the messages that use it were
// sent, so it may name one that has gone (the position then counts as passed, and a copy is sent), but never one that came
// after the message was stored.
type topicCache struct {
	b *Broker

	mu    sync.Mutex
	known map[string]*knownTopic
}

type knownTopic struct {
	topicInfo
	// last is the highest offset acknowledged by partition. One that is not higher tells of another incarnation.
	last map[int]int64
}

func newTopicCache(b *Broker) *topicCache {
	return &topicCache{b: b, known: map[string]*knownTopic{}}
}

// get tells of a topic, asking the cluster only for one that is not known.
func (c *topicCache) get(ctx context.Context, topic string) (topicInfo, error) {
	if info, known := c.remembered(topic); known {
		return info, nil
	}
	return c.look(ctx, topic)
}

func (c *topicCache) remembered(topic string) (topicInfo, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if known := c.known[topic]; known != nil {
		return known.topicInfo, true
	}
	return topicInfo{}, false
}

// look asks the cluster and remembers the answer.
func (c *topicCache) look(ctx context.Context, topic string) (topicInfo, error) {
	info, err := c.b.describe(ctx, topic)
	if err != nil {
		if errors.Is(err, broker.ErrNoTopic) {
			c.forget(topic)
		}
		return topicInfo{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if known := c.known[topic]; known != nil && known.id == info.id {
		known.topicInfo = info
	} else {
		c.known[topic] = &knownTopic{topicInfo: info, last: map[int]int64{}}
	}
	return info, nil
}

// acknowledged checks the offset of a stored batch against those before it; offset is its last.
func (c *topicCache) acknowledged(info topicInfo, partition int, first, last int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := c.known[info.name]
	if known == nil || known.id != info.id {
		return
	}
	if before, ok := known.last[partition]; ok && first <= before {
		delete(c.known, info.name)
		return
	}
	known.last[partition] = last
}

func (c *topicCache) forget(topic string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.known, topic)
}
