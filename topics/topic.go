// Package topics is the receiving side of twostep and its registry: typed topics, handlers that run once in effect and in the order of their keys,
// parking of what cannot run now, and the Owner of the registry of topics and subscriptions.
package topics

import (
	"encoding/json"
	"fmt"

	"github.com/twostep-mq/twostep/outbox"
)

// Codec turns values into payloads and back.
type Codec[T any] interface {
	// ContentType of the payloads, as "application/json".
	ContentType() string
	Encode(v T) ([]byte, error)
	// Decode reads a payload. An error makes the message a dead letter at once: no repetition mends it.
	Decode(payload []byte, contentType string) (T, error)
}

// JSON is the Codec used by default.
type JSON[T any] struct{}

// ContentType is "application/json".
func (JSON[T]) ContentType() string { return "application/json" }

// Encode writes v as encoding/json does.
func (JSON[T]) Encode(v T) ([]byte, error) { return json.Marshal(v) }

// Decode reads JSON whatever the content type says; unknown fields are ignored, so that senders may be newer.
func (JSON[T]) Decode(payload []byte, _ string) (v T, err error) {
	err = json.Unmarshal(payload, &v)
	return v, err
}

// Config of a Topic. Name is required.
type Config[T any] struct {
	// Name: tokens of [A-Za-z0-9_-] joined by dots, as "bank.trans-in".
	Name string
	// Key names what messages have to keep in order with: messages of one key are executed in commit order. nil: no order.
	Key func(T) string
	// GID, if set, is the caller's own name of the global transaction; publishing it a second time is refused.
	GID func(T) string
	// Headers, if set, are sent with the message.
	Headers func(T) map[string]string
	// Delivery says what releases a message; default: confirmed.
	Delivery outbox.Delivery
	// NoSubscribers says what becomes of messages that nobody subscribes to; default: hold.
	NoSubscribers outbox.NoSubscribers
	// Codec; nil: JSON.
	Codec Codec[T]
}

// Topic is a named stream of values of type T. It is made once, usually as a package variable, and holds no connection.
type Topic[T any] struct {
	cfg Config[T]
}

// New makes a topic. A wrong configuration shows when the topic is used: Publish and App.Run return it.
func New[T any](cfg Config[T]) *Topic[T] {
	if cfg.Codec == nil {
		cfg.Codec = JSON[T]{}
	}
	return &Topic[T]{cfg: cfg}
}

// Name of the topic.
func (t *Topic[T]) Name() string { return t.cfg.Name }

// Settings are what the registry keeps of the topic.
func (t *Topic[T]) Settings() outbox.TopicSettings {
	return withDefaultSettings(outbox.TopicSettings{
		Delivery: t.cfg.Delivery, NoSubscribers: t.cfg.NoSubscribers, Keyed: t.cfg.Key != nil,
	})
}

// Message makes the message that Outbox.Publish takes. What is wrong with v stands in Err, and Publish returns it.
func (t *Topic[T]) Message(v T) outbox.Message {
	m := outbox.Message{Topic: t.cfg.Name, ContentType: t.cfg.Codec.ContentType()}
	if t.cfg.Key != nil {
		m.Key = t.cfg.Key(v)
	}
	if t.cfg.GID != nil {
		m.GID = t.cfg.GID(v)
	}
	if t.cfg.Headers != nil {
		m.Headers = t.cfg.Headers(v)
	}
	var err error
	if m.Payload, err = t.cfg.Codec.Encode(v); err != nil {
		m.Err = fmt.Errorf("topics: encode a message to %s: %w", t.cfg.Name, err)
	}
	return m
}
