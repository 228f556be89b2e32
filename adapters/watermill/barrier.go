package watermill

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

// BarrierConfig configures a BarrierSubscriber. Group is required.
type BarrierConfig struct {
	// Group is the subscription's name: `[A-Za-z0-9_-]{1,64}`.
	Group string
	// Keyed: messages of one key come in the order of their commits; see KeyMetadata. It counts for topics that are made by
	// subscribing; one that is there keeps its settings.
	Keyed bool
	// Options say what becomes of nacked messages: after which pauses they come again (topics.WithBackoff), how often before they are
	// dead letters (topics.WithMaxAttempts).
	Options []topics.HandleOption
	// Declare: on (default) or off; see topics.AppConfig.
	Declare topics.Declare
	// Logger; nil: nothing is logged.
	Logger *slog.Logger
}

// BarrierSubscriber is a Watermill subscriber through the barrier: each message is handled once in effect. A message that is handed
// out has a transaction with its barrier row; Tx finds it in the message's context. Ack commits it, Nack rolls it back.
type BarrierSubscriber struct {
	b     broker.Broker
	store topics.Store
	cfg   BarrierConfig
	life  life
}

var _ message.Subscriber = (*BarrierSubscriber)(nil)

// NewBarrierSubscriber makes a subscriber that reads from b and executes on store.
func NewBarrierSubscriber(b broker.Broker, store topics.Store, cfg BarrierConfig) *BarrierSubscriber {
	return &BarrierSubscriber{b: b, store: store, cfg: cfg, life: newLife()}
}

// letter is a message with what Watermill's needs of it.
type letter struct {
	payload     []byte
	contentType string
}

type letterCodec struct{}

func (letterCodec) ContentType() string             { return defaultContentType }
func (letterCodec) Encode(l letter) ([]byte, error) { return l.payload, nil }
func (letterCodec) Decode(p []byte, contentType string) (letter, error) {
	return letter{payload: p, contentType: contentType}, nil
}

// offer is how long a message that nobody takes keeps its transaction open. Others of the database may wait for it, on SQLite all who
// write; it is then offered again, and that counts as no attempt.
const offer = 500 * time.Millisecond

// drain is how long a transaction may go on after the end: it is rolled back, and its message comes again.
const drain = time.Millisecond

// Subscribe makes the subscription, waits until it is registered, and hands out its messages until ctx ends or Close is called, one
// at a time. With Ack the message's transaction is about to be committed: use it before. When the commit fails the message comes
// again, so the answer to an Ack is the next message, not its return value.
func (s *BarrierSubscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	if !s.life.begin() {
		return nil, ErrClosed
	}
	ctx, release := s.life.within(ctx)
	app := topics.NewApp(s.b, s.store, topics.AppConfig{Declare: s.cfg.Declare, DrainTimeout: drain, Logger: s.cfg.Logger})
	out := make(chan *message.Message)
	s.topic(topic).Handle(app, s.cfg.Group, func(ctx context.Context, tx outbox.Tx, m topics.Received[letter]) error {
		w := decode(&broker.Message{
			ID: m.ID, Key: m.Key, ContentType: m.Data.contentType, Headers: m.Headers, Payload: m.Data.payload,
		})
		return hand(withTx(ctx, tx, m), w, out, time.After(offer))
	}, s.cfg.Options...)
	go func() {
		defer s.life.end()
		defer close(out)
		defer release()
		if err := app.Run(ctx); err != nil && s.cfg.Logger != nil {
			s.cfg.Logger.Error("subscriber ended", "topic", topic, "group", s.cfg.Group, "error", err)
		}
	}()
	if err := app.Ready(ctx); err != nil {
		release()
		return nil, fmt.Errorf("adapters/watermill: subscribe to %s as %s: %w", topic, s.cfg.Group, err)
	}
	return out, nil
}

func (s *BarrierSubscriber) topic(name string) *topics.Topic[letter] {
	cfg := topics.Config[letter]{Name: name, Codec: letterCodec{}}
	if s.cfg.Keyed {
		cfg.Key = func(letter) string { return "" } // that there is one is what the topic's settings say
	}
	return topics.New(cfg)
}

// Close ends all subscriptions and closes their channels. Transactions of messages without an answer are rolled back; those messages
// come again. The broker stays open.
func (s *BarrierSubscriber) Close() error {
	s.life.close()
	return nil
}

type contextKey struct{}

type inContext struct {
	tx outbox.Tx
	m  topics.Received[letter]
}

func withTx(ctx context.Context, tx outbox.Tx, m topics.Received[letter]) context.Context {
	return context.WithValue(ctx, contextKey{}, &inContext{tx, m})
}

// Tx finds the transaction of a message that a BarrierSubscriber handed out, in the message's context. What is written in it stands
// if and only if the message counts as handled.
func Tx(ctx context.Context) (outbox.Tx, bool) {
	if c := fromContext(ctx); c != nil {
		return c.tx, true
	}
	return nil, false
}

func fromContext(ctx context.Context) *inContext {
	c, _ := ctx.Value(contextKey{}).(*inContext)
	return c
}

// IdempotencyKey is for calls to other systems while a message of a BarrierSubscriber is handled; see topics.Received. Empty: ctx is not
// the context of such a message.
func IdempotencyKey(ctx context.Context) string {
	if c := fromContext(ctx); c != nil {
		return c.m.IdempotencyKey()
	}
	return ""
}
