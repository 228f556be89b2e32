package topics

import (
	"context"
	"fmt"
	"time"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/outbox"
)

// DeadPolicy says what a dead letter does to its key.
type DeadPolicy string

const (
	// HoldOnDead: later messages of the key wait until the dead letter is replayed or dropped. The default of topics with a Key.
	HoldOnDead DeadPolicy = "hold"
	// ContinueOnDead: later messages of the key run; a dead letter that is replayed then runs after its successors.
	ContinueOnDead DeadPolicy = "continue"
)

// HandleOption changes how a subscription's messages are handled.
type HandleOption func(*handling)

// WithMaxAttempts makes a message a dead letter after n failed executions (default 20).
func WithMaxAttempts(n int) HandleOption { return func(h *handling) { h.maxAttempts = n } }

// WithBackoff sets the pause after the n-th failed execution (from 1) of a message; default: from 250 ms, doubling, up to 15 s.
func WithBackoff(fn func(n int) time.Duration) HandleOption {
	return func(h *handling) { h.backoff = fn }
}

// WithOnDead says what a dead letter does to its key.
func WithOnDead(p DeadPolicy) HandleOption { return func(h *handling) { h.onDead = p } }

// WithMaxBatch bounds how many messages are taken from the broker at once; default: what the broker's adapter likes best.
func WithMaxBatch(n int) HandleOption { return func(h *handling) { h.maxBatch = n } }

// handling is a subscription as the code declares it.
type handling struct {
	topic        string
	settings     outbox.TopicSettings
	subscription string
	// topicOnly: the topic is declared, nothing is subscribed.
	topicOnly bool
	handler   func(context.Context, outbox.Tx, broker.Delivery, outbox.RegistrySubscription) error
	shared    bool

	maxAttempts int
	backoff     func(int) time.Duration
	onDead      DeadPolicy
	maxBatch    int
}

func (h *handling) name() string {
	if h.topicOnly {
		return h.topic
	}
	return h.topic + "/" + h.subscription
}

func (h *handling) holdOnDead() bool {
	if h.onDead == "" {
		return h.settings.Keyed
	}
	return h.onDead == HoldOnDead
}

func (h *handling) check() error {
	if err := checkTopic(h.topic, h.settings); err != nil {
		return err
	}
	if h.topicOnly {
		return nil
	}
	if err := checkSubscription(h.topic, h.subscription); err != nil {
		return err
	}
	switch {
	case h.handler == nil:
		return fmt.Errorf("%w: %s: the handler is nil", ErrInvalid, h.name())
	case h.onDead != "" && h.onDead != HoldOnDead && h.onDead != ContinueOnDead:
		return fmt.Errorf("%w: %s: on_dead %q: use hold or continue", ErrInvalid, h.name(), h.onDead)
	case h.maxAttempts < 0 || h.maxBatch < 0:
		return fmt.Errorf("%w: %s: WithMaxAttempts and WithMaxBatch take numbers above 0", ErrInvalid, h.name())
	}
	return nil
}

// Handle subscribes fn to the topic under the subscription's name. Each message has a transaction of its own, so fn may also call
// other systems, with m.IdempotencyKey. What is wrong is returned by App.Run.
func (t *Topic[T]) Handle(app *App, subscription string, fn Handler[T], opts ...HandleOption) {
	app.register(t.handling(subscription, fn, false, opts))
}

// HandleShared is Handle for functions that touch their database alone: many messages share one transaction and its commit, which
// is much faster. If one fails, all are rolled back and run one by one; so fn may run more than once for a message, and everything it
// does outside of tx is done again.
func (t *Topic[T]) HandleShared(app *App, subscription string, fn Handler[T], opts ...HandleOption) {
	app.register(t.handling(subscription, fn, true, opts))
}

// Declare makes the topic known to the registry without subscribing to it, for processes that publish alone.
func (t *Topic[T]) Declare(app *App) {
	app.register(&handling{topic: t.cfg.Name, settings: t.Settings(), topicOnly: true})
}

func (t *Topic[T]) handling(subscription string, fn Handler[T], shared bool, opts []HandleOption) *handling {
	h := &handling{topic: t.cfg.Name, settings: t.Settings(), subscription: subscription, shared: shared}
	if fn != nil {
		h.handler = t.untyped(fn)
	}
	for _, opt := range opts {
		opt(h)
	}
	return h
}
