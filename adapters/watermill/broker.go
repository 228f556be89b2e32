package watermill

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/outbox"
)

// Subscribers makes a subscriber of the pub/sub that shares its messages with all others of the group, in all processes: a consumer
// group, a queue. group is a name in [A-Za-z0-9._-]. For the group "" it makes one that gets, by itself, everything that is published
// from the moment on when Subscribe returned, and that leaves nothing behind. It is closed by who asked for it.
type Subscribers func(group string) (message.Subscriber, error)

// BrokerConfig configures a Broker. The zero value works.
type BrokerConfig struct {
	// Name writes the name of a topic as the pub/sub wants it; nil: as it is. It gets the names of topics and, beginning with Prefix and
	// a dot, of inboxes and of the processes' own talk.
	Name func(topic string) string
	// Prefix begins the names of what is no topic; default "twostep". No topic may begin with it and a dot.
	Prefix string
	// EnsureTopic, if set, makes a topic on the pub/sub; nil: its publisher or its subscribers do.
	EnsureTopic func(ctx context.Context, name string) error
	// ResendAfter is after what time a subscription that has not confirmed a message is sent it again; default 1 minute. Longer than
	// messages usually wait is right: a shorter time costs duplicates, which the barrier absorbs, a longer one patience.
	ResendAfter time.Duration
	// MaxBatch bounds one call of a handler; default 100. It is how many messages the pub/sub's subscriber has ready at a time that counts:
	// most hand out one.
	MaxBatch int
	// MaxBytes is the largest message the pub/sub takes, metadata included; 0: not known. A larger one is refused once and for all; one that
	// only the pub/sub refuses is tried again for ever.
	MaxBytes int
	// StateWait is how long a process that begins waits for the state that others have; default 1 s.
	StateWait time.Duration
	// Logger; nil: nothing is logged.
	Logger *slog.Logger
}

func (c BrokerConfig) withDefaults() BrokerConfig {
	if c.Name == nil {
		c.Name = func(topic string) string { return topic }
	}
	if c.Prefix == "" {
		c.Prefix = "twostep"
	}
	if c.ResendAfter <= 0 {
		c.ResendAfter = time.Minute
	}
	if c.MaxBatch <= 0 {
		c.MaxBatch = 100
	}
	if c.StateWait <= 0 {
		c.StateWait = time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Broker is any Watermill pub/sub as a broker. See the package's documentation for what it cannot do.
type Broker struct {
	pub   message.Publisher
	subs  Subscribers
	cfg   BrokerConfig
	log   *slog.Logger
	life  life
	lanes lanes
	state *replica
	local *switchboard
	// inboxes that this process has made.
	inboxes sync.Map
}

var _ broker.Broker = (*Broker)(nil)

// FromWatermill makes a broker of a pub/sub. The publisher stays the caller's to close.
func FromWatermill(publisher message.Publisher, subscribers Subscribers, cfg BrokerConfig) *Broker {
	cfg = cfg.withDefaults()
	b := &Broker{pub: publisher, subs: subscribers, cfg: cfg, log: cfg.Logger, life: newLife(), local: newSwitchboard()}
	b.lanes = newLanes(publisher)
	b.state = newReplica(b)
	return b
}

// ResendBackoff is for the relays on a Broker (outbox.RelayConfig): 1 minute, doubled, at most 1 hour. A pub/sub does not say that an
// inbox is full, so what is sent again to a subscription that is away lies there until it is back; the relay's own pauses, which end at
// 30 s, would put it there 120 times an hour.
func ResendBackoff(n int) time.Duration { return min(time.Hour, time.Minute<<min(n-1, 10)) }

// topicName checks a topic's name and writes it for the pub/sub.
func (b *Broker) topicName(topic string) (string, error) {
	if outbox.ValidTopic(topic) != nil || strings.HasPrefix(topic, b.cfg.Prefix+".") {
		return "", fmt.Errorf("%w: topic %q: use tokens of [A-Za-z0-9_-] joined by dots, the first one not %s", broker.ErrInvalid, topic, b.cfg.Prefix)
	}
	return b.cfg.Name(topic), nil
}

func (b *Broker) inboxName(inbox string) (string, error) {
	if outbox.ValidTopic(inbox) != nil {
		return "", fmt.Errorf("%w: inbox %q", broker.ErrInvalid, inbox)
	}
	return b.cfg.Name(b.cfg.Prefix + ".inbox." + inbox), nil
}

// EnsureTopic makes the topic, where BrokerConfig says how. Whether it is Retained is the pub/sub's own affair.
func (b *Broker) EnsureTopic(ctx context.Context, t broker.TopicSpec) error {
	name, err := b.topicName(t.Name)
	if err == nil {
		err = b.ensure(ctx, name)
	}
	if err != nil {
		return fmt.Errorf("adapters/watermill: make topic %s: %w", t.Name, err)
	}
	return nil
}

func (b *Broker) ensure(ctx context.Context, name string) error {
	if b.life.ctx.Err() != nil {
		return broker.ErrClosed
	}
	if b.cfg.EnsureTopic == nil {
		return nil
	}
	return b.cfg.EnsureTopic(ctx, name)
}

// DeleteTopic leaves the topic where it is: Watermill removes nothing. The registry forgets it all the same.
func (b *Broker) DeleteTopic(_ context.Context, topic string) error {
	b.log.Warn("a topic stays on the pub/sub: remove it there", "topic", topic)
	return nil
}

// EnsureSubscription makes the group's place on the topic where the pub/sub's subscriber can (message.SubscribeInitializer).
func (b *Broker) EnsureSubscription(ctx context.Context, s broker.SubscriptionSpec) error {
	name, err := b.topicName(s.Topic)
	if err == nil {
		err = b.initialize(ctx, s.UID, name)
	}
	if err != nil {
		return fmt.Errorf("adapters/watermill: subscription %s of topic %s: %w", s.UID, s.Topic, err)
	}
	return nil
}

func (b *Broker) initialize(ctx context.Context, group, name string) (err error) {
	if err := b.ensure(ctx, name); err != nil {
		return err
	}
	sub, err := b.subs(group)
	if err != nil {
		return fmt.Errorf("make a subscriber of group %s: %w", group, err)
	}
	defer func() { err = errors.Join(err, sub.Close()) }()
	if able, ok := sub.(message.SubscribeInitializer); ok {
		return able.SubscribeInitialize(name)
	}
	return nil
}

// DeleteSubscription leaves the group where it is: Watermill removes nothing.
func (b *Broker) DeleteSubscription(_ context.Context, topic, uid string) error {
	b.log.Warn("a consumer group stays on the pub/sub: remove it there", "topic", topic, "group", uid)
	return nil
}

// EnsureInbox makes the inbox: a topic with one group.
func (b *Broker) EnsureInbox(ctx context.Context, inbox string) error {
	name, err := b.inboxName(inbox)
	if err == nil {
		err = b.initialize(ctx, inbox, name)
	}
	if err != nil {
		return fmt.Errorf("adapters/watermill: make inbox %s: %w", inbox, err)
	}
	b.inboxes.Store(inbox, true)
	return nil
}

// DeleteInbox leaves the inbox where it is: Watermill removes nothing.
func (b *Broker) DeleteInbox(_ context.Context, inbox string) error {
	b.log.Warn("an inbox stays on the pub/sub: remove it there", "inbox", b.cfg.Prefix+".inbox."+inbox)
	return nil
}

// Positions stand for times: Watermill knows no others. A message's offset is when the pub/sub took it (Unix nanoseconds, by the
// publishing process's clock), and every reader counts as having passed what is older than BrokerConfig.ResendAfter. What is still
// unconfirmed then is sent again.
func (b *Broker) Positions(_ context.Context, topic string, uids []string) (broker.Positions, error) {
	if _, err := b.topicName(topic); err != nil {
		return broker.Positions{}, err
	}
	if b.life.ctx.Err() != nil {
		return broker.Positions{}, broker.ErrClosed
	}
	now := time.Now()
	ps := broker.Positions{Stream: stream, First: []uint64{1}, Last: []uint64{offsetAt(now)}, Floor: make(map[string][]uint64, len(uids))}
	for _, uid := range uids {
		ps.Floor[uid] = []uint64{offsetAt(now.Add(-b.cfg.ResendAfter))}
	}
	return ps, nil
}

// stream is the one incarnation there ever is.
const stream = "watermill"

func offsetAt(t time.Time) uint64 { return uint64(max(1, t.UnixNano())) }

func positionAt(t time.Time) broker.Position {
	return broker.Position{Stream: stream, Offset: offsetAt(t)}
}

// Close ends what runs in the background and makes all calls fail with broker.ErrClosed.
func (b *Broker) Close(ctx context.Context) error {
	b.life.close()
	if err := b.lanes.wait(ctx); err != nil {
		return fmt.Errorf("adapters/watermill: close: messages still wait for the pub/sub: %w", err)
	}
	return nil
}
