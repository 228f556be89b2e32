// Package outbox is the sender's side of twostep: Publish puts a message into the outbox in the caller's own transaction, and
// the Relay carries it to its topic and releases it when everybody who has to execute it has confirmed that.
package outbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/twostep-mq/twostep/broker"
)

// ErrUnknownTopic: the topic is not in the registry, and the configuration says declare: off.
var ErrUnknownTopic = errors.New("outbox: unknown topic")

// Config of an Outbox. The zero value works.
type Config struct {
	// Doorbell is rung when there is something to relay: a broker connection, or the Relay itself where it runs in the same
	// process. Without one the relay's own poll (1 s) finds new rows.
	Doorbell Doorbell
	// Known, if set, is asked whether a topic exists (declare: off); Publish refuses others with ErrUnknownTopic.
	Known func(topic string) bool
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Doorbell wakes the relay of an outbox. Every broker.Broker is one, and so is a Relay.
type Doorbell interface {
	Ring(ctx context.Context, name string) error
}

// Outbox publishes messages from one database.
type Outbox struct {
	store Store
	cfg   Config
	uuid  string
	burst *burst
}

// New opens the outbox in store.
func New(ctx context.Context, store Store, cfg Config) (*Outbox, error) {
	id, err := store.UUID(ctx)
	if err != nil {
		return nil, fmt.Errorf("outbox: open: %w", err)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	o := &Outbox{store: store, cfg: cfg, uuid: id}
	o.burst = newBurst(o.ring)
	return o, nil
}

// UUID of the outbox: its identity in headers, receipts and reports.
func (o *Outbox) UUID() string { return o.uuid }

// Publish writes m as one row in tx, which the caller commits or rolls back; the message exists if and only if tx commits. It
// returns the message's id. With a GID of the caller's, a second publish is ErrDuplicate: roll back then.
func (o *Outbox) Publish(ctx context.Context, tx Transaction, m Message) (string, error) {
	bm, err := o.build(&m)
	if err != nil {
		return "", err
	}
	err = o.store.Insert(ctx, tx, bm, m.GID != "")
	switch {
	case errors.Is(err, ErrDuplicate):
		return "", fmt.Errorf("outbox: publish to %s: %w: it was published or fenced before: roll this transaction back", m.Topic, err)
	case err != nil:
		return "", fmt.Errorf("outbox: publish to %s: %w", m.Topic, err)
	}
	o.burst.start()
	return bm.ID, nil
}

// Transact runs fn in a transaction of its own, commits it and rings the relay at once. Concurrent calls may share one
// commit; each fails or succeeds alone. fn may run again after a failure of the database, so it must change nothing but tx.
func (o *Outbox) Transact(ctx context.Context, fn func(tx Tx) error) error {
	if err := o.store.Transact(ctx, fn); err != nil {
		return err
	}
	o.burst.now()
	return nil
}

func (o *Outbox) build(m *Message) (*broker.Message, error) {
	if err := m.validate(); err != nil {
		return nil, err
	}
	if o.cfg.Known != nil && !o.cfg.Known(m.Topic) {
		return nil, fmt.Errorf("%w %q: declare is off, so make it first: twostep topics create %s", ErrUnknownTopic, m.Topic, m.Topic)
	}
	id, err := uuid.NewV7()
	if err != nil {
		return nil, fmt.Errorf("outbox: message id: %w", err)
	}
	bm := &broker.Message{
		ID: id.String(), Topic: m.Topic, Key: m.Key, GID: m.GID, ContentType: m.ContentType,
		Payload: m.Payload, Headers: m.Headers, Time: o.cfg.Now(),
	}
	if bm.ContentType == "" {
		bm.ContentType = "application/json"
	}
	return bm, nil
}

func (o *Outbox) ring() {
	if o.cfg.Doorbell == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	// A lost ring costs a poll's time; the relay finds the row.
	_ = o.cfg.Doorbell.Ring(ctx, Inbox(o.uuid))
}
