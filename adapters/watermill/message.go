package watermill

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"

	"github.com/twostep-mq/twostep/broker"
)

const (
	// KeyMetadata is the name under which a message's metadata hold its ordering key: what Publish finds there becomes the key of the
	// message on the broker, and Subscribe puts it there.
	KeyMetadata = "twostep-key"
	// ContentTypeMetadata likewise holds the content type of the payload; without one it is application/octet-stream.
	ContentTypeMetadata = "content-type"

	defaultContentType = "application/octet-stream"
	// headerUUID carries Watermill's UUID; it also tells that the message comes from a Watermill publisher of this package.
	headerUUID = ownPrefix + "uuid"
	// headerPacked carries the metadata that cannot be headers as they are.
	headerPacked = ownPrefix + "metadata"
	ownPrefix    = "watermill-"
)

// outgoing is a Watermill message as a broker carries it. Metadata become headers of their own where every broker carries them
// unchanged, so that other programs can read them; the others are packed into one.
type outgoing struct {
	key, contentType string
	headers          map[string]string
	payload          []byte
}

func encode(m *message.Message) (outgoing, error) {
	out := outgoing{contentType: defaultContentType, headers: make(map[string]string, len(m.Metadata)+2), payload: m.Payload}
	if out.payload == nil {
		out.payload = []byte{}
	}
	var packed [][]byte
	pack := func(name, value string) { packed = append(packed, []byte(name), []byte(value)) }
	out.headers[headerUUID] = ""
	if isPlain(m.UUID) {
		out.headers[headerUUID] = m.UUID
	} else {
		pack("", m.UUID) // the first one
	}
	for _, name := range slices.Sorted(maps.Keys(m.Metadata)) {
		value := m.Metadata[name]
		switch {
		case name == KeyMetadata && value != "":
			out.key = value
		case name == ContentTypeMetadata && isContentType(value):
			out.contentType = value
		case isHeader(name) && isPlain(value):
			out.headers[name] = value
		default:
			pack(name, value)
		}
	}
	if len(packed) > 0 {
		text, err := json.Marshal(packed)
		if err != nil {
			return out, fmt.Errorf("adapters/watermill: pack the metadata of %s: %w", m.UUID, err)
		}
		out.headers[headerPacked] = base64.RawURLEncoding.EncodeToString(text)
	}
	return out, nil
}

// decode makes a Watermill message of what came from a broker. A message from a Watermill publisher is as it was; one from anybody
// else has the message's identity as UUID and its headers as metadata.
func decode(m *broker.Message) *message.Message {
	id, ours := m.Headers[headerUUID]
	w := message.NewMessage(id, m.Payload)
	for name, value := range m.Headers {
		if ours && isReserved(name) {
			continue // what the broker itself added
		}
		w.Metadata[name] = value
	}
	if ours {
		unpack(w, m.Headers[headerPacked])
	}
	if w.UUID == "" {
		w.UUID = m.ID
	}
	if m.Key != "" {
		w.Metadata[KeyMetadata] = m.Key
	}
	if m.ContentType != "" && m.ContentType != defaultContentType {
		w.Metadata[ContentTypeMetadata] = m.ContentType
	}
	return w
}

// unpack adds packed metadata. What is malformed was packed by somebody else, and is left out.
func unpack(w *message.Message, text string) {
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(raw) == 0 {
		return
	}
	var packed [][]byte
	if json.Unmarshal(raw, &packed) != nil {
		return
	}
	if w.UUID == "" && len(packed) > 1 {
		w.UUID = string(packed[1])
		packed = packed[2:]
	}
	for i := 0; i+1 < len(packed); i += 2 {
		w.Metadata[string(packed[i])] = string(packed[i+1])
	}
}

// isPlain reports whether every broker carries the value unchanged, to readers that decode nothing as well.
func isPlain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c > '~' || c == '"' || c == '%' {
			return false
		}
	}
	return s != ""
}

// isContentType reports whether the value comes back as it is.
func isContentType(s string) bool {
	return s != "" && s != defaultContentType && isPlain(strings.ReplaceAll(s, " ", "")) && strings.TrimSpace(s) == s
}

// isHeader reports whether the name can be that of a header on every broker.
func isHeader(name string) bool {
	for i := range len(name) {
		c := name[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return name != "" && !isReserved(name)
}

func isReserved(name string) bool {
	for _, prefix := range []string{ownPrefix, "ce-", "ce_", "twostep-", "nats-"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return name == ContentTypeMetadata
}

// identity is the id of a message that is published outside of an outbox: Watermill's UUID where it is one.
func identity(m *message.Message) (string, error) {
	if id, err := uuid.Parse(m.UUID); err == nil && id.String() == m.UUID {
		return m.UUID, nil
	}
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("adapters/watermill: message id: %w", err)
	}
	return id.String(), nil
}
