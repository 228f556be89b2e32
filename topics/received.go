package topics

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/outbox"
)

// Received is a message as a handler gets it.
type Received[T any] struct {
	// Data is the decoded payload.
	Data T
	// ID is the message's UUID; of a foreign message (from a producer that is no twostep outbox) where it lies.
	ID string
	// GID is the global transaction; without one of the sender's it is ID.
	GID string
	// Topic, Subscription (its name) and Key.
	Topic, Subscription, Key string
	// Headers are the sender's own. Do not change them.
	Headers map[string]string
	// Time is when the message was published, by the sender's clock.
	Time time.Time
	// Attempt counts the executions of this message by this subscription, from 1.
	Attempt int
	// Outbox is the UUID of the outbox it came from; empty on a foreign message.
	Outbox string

	uid string
}

// IdempotencyKey is for calls to other systems: a UUID that is the same for every execution of this message by this subscription,
// and another for every other.
func (r Received[T]) IdempotencyKey() string {
	space, err := uuid.Parse(r.uid)
	if err != nil {
		space = uuid.NewSHA1(uuid.Nil, []byte(r.uid))
	}
	return uuid.NewSHA1(space, []byte(r.ID)).String()
}

// Handler executes one message in tx, which holds the barrier row already: a duplicate never gets here. nil commits, an error
// rolls back and the message is tried again later; Dead marks an error as final. Commit nothing with raw SQL, and return the
// database's errors instead of swallowing them.
type Handler[T any] func(ctx context.Context, tx outbox.Tx, m Received[T]) error

// untyped makes of a typed handler what a dispatcher calls.
func (t *Topic[T]) untyped(fn Handler[T]) func(context.Context, outbox.Tx, broker.Delivery, outbox.RegistrySubscription) error {
	return func(ctx context.Context, tx outbox.Tx, d broker.Delivery, sub outbox.RegistrySubscription) error {
		v, err := t.cfg.Codec.Decode(d.Payload, d.ContentType)
		if err != nil {
			return Dead(fmt.Errorf("payload of %d bytes (%s) does not decode: %w", len(d.Payload), d.ContentType, err))
		}
		return fn(ctx, tx, Received[T]{
			Data: v, ID: d.ID, GID: gidOf(d.GID, d.ID), Topic: sub.Topic, Subscription: sub.Name, Key: d.Key, Headers: d.Headers,
			Time: d.Time, Attempt: d.Attempt, Outbox: d.Outbox, uid: sub.UID,
		})
	}
}
