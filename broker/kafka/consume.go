package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/twostep-mq/twostep/broker"
)

const (
	// defaultBatch is the largest batch a handler gets unless the source says otherwise.
	defaultBatch = 500
	// handBackPause is how long a reader whose handler keeps failing leaves the field to others.
	handBackPause = time.Second
	// farewellWait bounds what a reader does on leaving.
	farewellWait = 2 * time.Second
	// clockSlack is taken off a time of ours before it is compared with the times of messages.
	clockSlack = time.Minute
)

// Consume reads a subscription or an inbox as a member of its consumer group. A batch is what has come while the handler ran, with no
// lingering; more is fetched ahead. The group divides the partitions among its members: of an inbox, and of a topic with one
// partition, one member reads and the others stand by. Order is kept by partition, so by key.
//
// When the handler fails, the same batch is given to it again, in place and marked Redelivered; after some failures this member
// leaves the group for a moment and lets another try. When a member joins or leaves, the running handlers are waited for and what
// they settled is committed. A member that died is noticed after Config.SessionTimeout; what it may have had in hand is marked
// Redelivered.
func (b *Broker) Consume(ctx context.Context, src broker.Source, handle func(context.Context, []broker.Delivery) error) error {
	if err := checkSource(src); err != nil {
		return err
	}
	c := b.newConsumption(src)
	wait := retryPause
	for ctx.Err() == nil {
		if b.isClosed() {
			return broker.ErrClosed
		}
		began := time.Now()
		err := c.read(ctx, handle)
		switch {
		case ctx.Err() != nil:
		case errors.Is(err, errNameTaken):
			return err
		case errors.Is(err, errRebalance), errors.Is(err, kafka.RebalanceInProgress):
			pause(ctx, retryPause/4)
			continue
		case errors.Is(err, errHandedBack):
			c.me.leave(ctx)
			wait = handBackPause
		case time.Since(began) > time.Second:
			wait = retryPause
		}
		if ctx.Err() != nil || b.isClosed() {
			continue
		}
		b.log.Log(ctx, c.trouble.level(), "reader starts again", "source", c.name, "reason", err)
		if stale(err) {
			b.renew()
		}
		pause(ctx, wait)
		wait = min(wait*2, retryPauseMax)
	}
	c.me.leave(ctx)
	return nil
}

func checkSource(src broker.Source) error {
	if src.Inbox != "" {
		return checkName("inbox", src.Inbox)
	}
	if err := checkName("topic", src.Subscription.Topic); err != nil {
		return err
	}
	return checkName("subscription uid", src.Subscription.UID)
}

// consumption is one call of Consume.
type consumption struct {
	b     *Broker
	src   broker.Source
	name  string // for logs
	group string
	topic string // the port's name; empty for an inbox
	batch int
	began time.Time
	me    *member
	// stream is the incarnation that was read last.
	stream string
	// failures of the handler since it last succeeded.
	failures int
	trouble  complaint
}

func (b *Broker) newConsumption(src broker.Source) *consumption {
	c := &consumption{b: b, src: src, batch: src.MaxBatch, began: time.Now()}
	if c.batch <= 0 {
		c.batch = defaultBatch
	}
	if src.Inbox != "" {
		c.name, c.group = "inbox "+src.Inbox, b.names.inbox(src.Inbox)
	} else {
		c.topic = src.Subscription.Topic
		c.name, c.group = "topic "+c.topic+" subscription "+src.Subscription.UID, b.names.group(src.Subscription.UID)
	}
	c.me = &member{b: b, group: c.group}
	return c
}

// read takes part in one generation of the group, until ctx ends (nil), the group divides anew (errRebalance), or something has to be
// looked at again.
func (c *consumption) read(ctx context.Context, handle func(context.Context, []broker.Delivery) error) error {
	info, err := c.bind(ctx)
	if err != nil {
		return err
	}
	g, err := c.me.join(ctx, info)
	if err != nil {
		return err
	}
	err = newReader(c, info, g).run(ctx, handle)
	if memberGone(err) {
		c.me.id, c.me.owned = "", nil
	}
	return err
}

// bind makes the topic and the group's offsets if they are not there.
func (c *consumption) bind(ctx context.Context) (topicInfo, error) {
	b := c.b
	if c.src.Inbox != "" {
		info, err := b.ensureInbox(ctx, c.src.Inbox)
		c.stream = info.id
		return info, err
	}
	if err := b.EnsureTopic(ctx, broker.TopicSpec{Name: c.topic}); err != nil {
		return topicInfo{}, fmt.Errorf("make the topic again: %w", err)
	}
	info, err := b.topics.get(ctx, b.names.topic(c.topic))
	if err != nil {
		return info, err
	}
	err = b.begin(ctx, c.group, info, c.start(info))
	c.stream = info.id
	return info, err
}

// start chooses where a group begins that has no offsets: on a topic made anew at its beginning, for all of it came after the
// subscription.
func (c *consumption) start(info topicInfo) int64 {
	since := c.src.Subscription.Since
	switch {
	case c.stream != "" && c.stream != info.id:
		return atFirst
	case since != 0:
		return millis(since)
	case c.stream != "":
		return c.began.Add(-clockSlack).UnixMilli()
	}
	return atEnd
}
