// Package broker is the port to a message broker: topics with subscriptions, inboxes, state and requests. Adapters
// are broker/nats and broker/kafka; broker/brokertest is the suite each of them passes. It imports the standard library
// only.
//
// A broker is a cache here: it may lose everything it acknowledged at any moment, and no promise of twostep breaks.
// What it must do is said at each method; what it need not do is keep.
package broker

import (
	"context"
	"errors"
)

var (
	// ErrNoTopic: the topic (its stream) does not exist on the broker, or no longer. The caller makes it again.
	ErrNoTopic = errors.New("broker: no such topic")
	// ErrNoInbox: the inbox does not exist on the broker, or no longer.
	ErrNoInbox = errors.New("broker: no such inbox")
	// ErrFull: the inbox or the stream takes no more for now. Nothing was stored.
	ErrFull = errors.New("broker: full")
	// ErrTooLarge: the broker will never take this message, however often it is sent.
	ErrTooLarge = errors.New("broker: message too large")
	// ErrInvalid: the broker has no way to write this name, of a header, a topic, an inbox. A message with it can never be carried.
	ErrInvalid = errors.New("broker: impossible name")
	// ErrNoAnswer: nobody answers requests under this name right now.
	ErrNoAnswer = errors.New("broker: nobody answers")
	// ErrClosed: the connection was closed by Close.
	ErrClosed = errors.New("broker: closed")
)

// Broker is all that twostep wants of a message broker. Its users take the part they need.
type Broker interface {
	Topics
	Messages
	State
	Requests
	// Close ends the connection. Consumers are ended by their contexts first.
	Close(ctx context.Context) error
}

// Topics makes and removes what messages travel through.
type Topics interface {
	// EnsureTopic makes the topic if it is not there and leaves it alone if it is; but one that was made by somebody who did not know that
	// it is Retained becomes that.
	EnsureTopic(ctx context.Context, t TopicSpec) error
	// DeleteTopic removes the topic with its messages; an absent one is no error.
	DeleteTopic(ctx context.Context, topic string) error
	// EnsureSubscription makes the subscription's reader on the broker if it is not there: it will be given every message
	// stored after this call, or, where s.Since is set, everything stored from that time on.
	EnsureSubscription(ctx context.Context, s SubscriptionSpec) error
	// DeleteSubscription removes the reader; an absent one is no error.
	DeleteSubscription(ctx context.Context, topic, uid string) error
	// EnsureInbox makes the inbox; DeleteInbox removes it with what it holds.
	EnsureInbox(ctx context.Context, inbox string) error
	DeleteInbox(ctx context.Context, inbox string) error
	// Positions tells how far the topic and the readers of the given subscriptions are. ErrNoTopic when it is gone.
	Positions(ctx context.Context, topic string, uids []string) (Positions, error)
}

// TopicSpec is what a broker has to know of a topic.
type TopicSpec struct {
	Name string
	// Retained says whether the broker may not drop the oldest when it is full (delivery: broker) but refuses with ErrFull.
	Retained bool
}

// SubscriptionSpec names a reader: one durable consumer (NATS) or consumer group (Kafka).
type SubscriptionSpec struct {
	UID, Topic string
	// Keyed: only one process at a time reads, so that keys stay in order without help.
	Keyed bool
	// Since, in Unix nanoseconds, is when the subscription was made; 0: it is being made now.
	Since int64
}

// Positions of a topic. The slices have one entry a partition.
type Positions struct {
	// Stream is the incarnation; see Position.
	Stream string
	// First is the lowest offset still held, Last the highest ever given out. An empty partition has First = Last + 1.
	First, Last []uint64
	// Floor is, by subscription, the highest offset up to which everything was settled or was never for it. A missing entry: its
	// reader does not exist on the broker.
	Floor map[string][]uint64
}

// Passed reports whether the reader of uid has settled everything up to p, or can no longer get it: it was dropped, or the
// stream is another one. false where that is not known.
func (ps Positions) Passed(uid string, p Position) bool {
	if ps.Stream != p.Stream {
		return true
	}
	if p.Partition >= len(ps.First) {
		return true
	}
	floor, ok := ps.Floor[uid]
	if !ok {
		return true // no reader: it will never get there by itself
	}
	return p.Offset < ps.First[p.Partition] || floor[p.Partition] >= p.Offset
}

// Source is what a consumer reads: a subscription of a topic, or an inbox. A keyed subscription and an inbox have one reader at a time:
// others stand by, and take over when it ends or is silent for some seconds. What it had and did not settle then comes again first.
type Source struct {
	Subscription SubscriptionSpec
	Inbox        string
	// MaxBatch bounds one call of the handler; 0: the adapter's default.
	MaxBatch int
}

// Messages moves messages.
type Messages interface {
	// Publish hands messages to their topics in the order given and returns when all are handed over; it blocks for
	// back-pressure only. done is called exactly once for each, by index, from any goroutine, in any order: with the
	// position when the broker acknowledged, else with the error (after which the message may be stored all the same).
	Publish(ctx context.Context, ms []*Message, done func(i int, p Position, err error))
	// Send puts messages into an inbox, in order, and waits for the broker's acknowledgement. On an error a prefix may be
	// stored: n says how many are known to be.
	Send(ctx context.Context, inbox string, ms []*Message) (n int, err error)
	// Consume reads the source until ctx ends, then waits for the running handler and returns nil. The handler gets
	// batches in the broker's order, one at a time. nil settles the whole batch. An error leaves it unsettled, and it
	// is delivered again later, marked Redelivered. While the handler runs the adapter keeps the delivery alive.
	// A lost connection is waited out; a reader or inbox that has vanished is made again. Consume returns an error only
	// for what no waiting mends.
	Consume(ctx context.Context, src Source, handle func(context.Context, []Delivery) error) error
}

// StateEvent is one change seen by Watch.
type StateEvent struct {
	// Key and Value of the entry; Value nil: it was deleted.
	Key   string
	Value []byte
	// Current marks the end of what was there when the watch began: nothing else is set.
	Current bool
	// Reset says that the state was lost (a wiped broker): forget all entries; what there is now follows, then Current.
	Reset bool
}

// State keeps the last value per key, as one log that every watcher sees in the same order (a value overwritten before it
// was seen is skipped). Keys are dot-separated tokens of [A-Za-z0-9_-]. A value is at most 900,000 bytes.
type State interface {
	PutState(ctx context.Context, key string, value []byte) error
	// DeleteState removes the key; watchers see a nil value.
	DeleteState(ctx context.Context, key string) error
	// WatchState calls fn for every current entry whose key begins with prefix, then once with Current, then for every change,
	// until ctx ends (nil) or fn returns an error (returned). It outlives lost connections.
	WatchState(ctx context.Context, prefix string, fn func(StateEvent) error) error
}

// Requests is the way to ask a process something and the doorbell between processes. Nothing in it is durable.
type Requests interface {
	// Request asks whoever answers under name; ErrNoAnswer if nobody does before ctx ends.
	Request(ctx context.Context, name string, body []byte) ([]byte, error)
	// Answer answers requests under name until stop is called. Where several processes answer one name, one of them gets each request.
	Answer(ctx context.Context, name string, fn func(ctx context.Context, body []byte) []byte) (stop func(), err error)
	// Ring tells everyone who listens under name that there is work. It may be lost.
	Ring(ctx context.Context, name string) error
	Listen(ctx context.Context, name string, fn func()) (stop func(), err error)
}
