package outbox

import (
	"errors"
	"fmt"
	"strings"

	"github.com/twostep-mq/twostep/broker"
)

// Limits of a message; docs/reference.md, "Limits".
const (
	MaxPayload = broker.MaxPayload
	MaxTopic   = 128
	MaxGID     = 128
	MaxKey     = 512
	MaxHeaders = 8192
)

// ErrInvalid is wrapped by every error about a message that can never be published.
var ErrInvalid = errors.New("outbox: invalid message")

// Message is what Publish puts into the outbox. Package topics makes them from typed values.
type Message struct {
	// Topic is required.
	Topic string
	// Key orders messages of one topic; empty: no order.
	Key string
	// GID makes publishing idempotent: a second message with it is refused with ErrDuplicate, in this database, for ever. Empty:
	// the message's id serves.
	GID string
	// ContentType of Payload; empty: application/json.
	ContentType string
	// Payload is stored and carried as it is; at most MaxPayload bytes.
	Payload []byte
	// Headers travel with the message; see broker.Message.
	Headers map[string]string
	// Err says why the message could not be built; Publish returns it.
	Err error
}

// maxToken bounds one of the tokens of a topic's name.
const maxToken = 64

// ValidTopic says what is wrong with a topic's name.
func ValidTopic(name string) error {
	if len(name) > MaxTopic || !isTopic(name) {
		return fmt.Errorf("%w: topic %q: use tokens of [A-Za-z0-9_-], at most 64 bytes each, joined by dots, %d bytes in all", ErrInvalid, clip(name), MaxTopic)
	}
	return nil
}

// ValidGID says what is wrong with a gid.
func ValidGID(gid string) error {
	if !isGID(gid) {
		return fmt.Errorf("%w: gid %q: use 1 to %d bytes of [A-Za-z0-9._:-]", ErrInvalid, clip(gid), MaxGID)
	}
	return nil
}

// isTopic and isGID are loops, not regular expressions: they run for each message, in the caller's transaction.
func isTopic(name string) bool {
	token := 0
	for i := range len(name) {
		switch c := name[i]; {
		case c == '.' && token > 0:
			token = 0
			continue
		case isNameByte(c) && token < maxToken:
			token++
		default:
			return false
		}
	}
	return token > 0
}

func isGID(gid string) bool {
	for i := range len(gid) {
		if c := gid[i]; !isNameByte(c) && c != '.' && c != ':' {
			return false
		}
	}
	return gid != "" && len(gid) <= MaxGID
}

func isNameByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-'
}

func (m *Message) validate() error {
	if m.Err != nil {
		return m.Err
	}
	if err := ValidTopic(m.Topic); err != nil {
		return err
	}
	if m.GID != "" {
		if err := ValidGID(m.GID); err != nil {
			return err
		}
	}
	if len(m.Key) > MaxKey {
		return fmt.Errorf("%w: key of a message to %s has %d bytes, the limit is %d: use an identifier, not the thing itself", ErrInvalid, m.Topic, len(m.Key), MaxKey)
	}
	if len(m.Payload) > MaxPayload {
		return fmt.Errorf("%w: payload of a message to %s has %d bytes, the limit is %d: store it elsewhere and send a reference", ErrInvalid, m.Topic, len(m.Payload), MaxPayload)
	}
	return m.validateHeaders()
}

func (m *Message) validateHeaders() error {
	size := 0
	for name, value := range m.Headers {
		size += len(name) + len(value)
		switch {
		case name == "" || name != strings.ToLower(name) || strings.ContainsAny(name, " :\r\n"):
			return fmt.Errorf("%w: header %q: names are lower case, without spaces and colons", ErrInvalid, clip(name))
		case strings.HasPrefix(name, "ce-"), strings.HasPrefix(name, "twostep-"), strings.HasPrefix(name, "nats-"), name == "content-type":
			return fmt.Errorf("%w: header %q is reserved: choose another name", ErrInvalid, clip(name))
		}
	}
	if size > MaxHeaders {
		return fmt.Errorf("%w: headers of a message to %s have %d bytes, the limit is %d: put it into the payload", ErrInvalid, m.Topic, size, MaxHeaders)
	}
	return nil
}

// clip keeps error messages short.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
