package watermill

import (
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"

	"github.com/twostep-mq/twostep/broker"
)

// The envelope on a foreign pub/sub: CloudEvents 1.0 and twostep-* metadata, named as on NATS (docs/reference.md). Values that are not
// printable ASCII are percent-encoded, for some pub/subs write metadata into headers.
const (
	metaSpecVersion = "ce-specversion"
	metaID          = "ce-id"
	metaSource      = "ce-source"
	metaType        = "ce-type"
	metaTime        = "ce-time"
	metaKey         = "ce-partitionkey"
	metaGID         = "twostep-gid"
	metaBranch      = "twostep-branch"
	metaOp          = "twostep-op"
	metaOutbox      = "twostep-outbox"
	metaSeq         = "twostep-seq"
	metaPrev        = "twostep-prev"
	metaAttempt     = "twostep-attempt"
)

// wrap writes a message of ours for the pub/sub.
func wrap(m *broker.Message) *message.Message {
	w := message.NewMessage(m.ID, m.Payload)
	set := func(name, value string) {
		if value != "" {
			w.Metadata[name] = escape(value)
		}
	}
	set(metaSpecVersion, "1.0")
	set(metaID, m.ID)
	set(metaSource, "/twostep/"+m.Outbox)
	set(metaType, m.Topic)
	if !m.Time.IsZero() {
		set(metaTime, m.Time.UTC().Format(time.RFC3339Nano))
	}
	set(metaKey, m.Key)
	set(ContentTypeMetadata, m.ContentType)
	if m.GID != m.ID {
		set(metaGID, m.GID)
	}
	set(metaBranch, m.BranchID)
	set(metaOp, m.Op)
	if m.Outbox != "" {
		set(metaOutbox, m.Outbox)
		set(metaSeq, strconv.FormatInt(m.Seq, 10))
	}
	set(metaPrev, m.Prev)
	if m.Attempt > 1 {
		set(metaAttempt, strconv.Itoa(m.Attempt))
	}
	for name, value := range m.Headers {
		w.Metadata[name] = escape(value)
	}
	return w
}

// size is what a message takes, about.
func size(w *message.Message) int {
	n := len(w.UUID) + len(w.Payload)
	for name, value := range w.Metadata {
		n += len(name) + len(value)
	}
	return n
}

// unwrap reads a message. One that lacks an identity of ours is foreign: Watermill's UUID is its identity, within its topic. Without
// that it has none, and each delivery counts as another message.
func unwrap(w *message.Message, topic string) *broker.Message {
	get := func(name string) string { return unescape(w.Metadata[name]) }
	m := &broker.Message{
		ID: get(metaID), Topic: topic, Key: get(metaKey), ContentType: get(ContentTypeMetadata), Payload: w.Payload, GID: get(metaGID),
		BranchID: get(metaBranch), Op: get(metaOp), Outbox: get(metaOutbox), Prev: get(metaPrev), Attempt: 1,
	}
	if m.Payload == nil {
		m.Payload = []byte{}
	}
	if topic == "" {
		m.Topic = get(metaType)
	}
	m.Seq, _ = strconv.ParseInt(get(metaSeq), 10, 64) // else 0: foreign
	if n, err := strconv.Atoi(get(metaAttempt)); err == nil && n > 1 {
		m.Attempt = n
	}
	if at, err := time.Parse(time.RFC3339Nano, get(metaTime)); err == nil {
		m.Time = at.UTC()
	}
	ours := isID(m.ID) && isID(m.Outbox) && m.Seq > 0
	if !ours {
		of := w.UUID
		if of == "" {
			of = uuid.NewString()
		}
		m.ID = "watermill/" + m.Topic + "/" + of
		m.BranchID, m.Op, m.Outbox, m.Seq, m.Prev, m.Attempt = "", "", "", 0, "", 1
	}
	if m.GID == "" || !ours {
		m.GID = m.ID
	}
	for name, value := range w.Metadata {
		lower := strings.ToLower(name)
		if lower == ContentTypeMetadata || strings.HasPrefix(lower, "twostep-") || ours && strings.HasPrefix(lower, "ce-") {
			continue
		}
		if m.Headers == nil {
			m.Headers = map[string]string{}
		}
		if ours {
			value = unescape(value)
		}
		m.Headers[lower] = value
	}
	return m
}

func isID(s string) bool {
	id, err := uuid.Parse(s)
	return err == nil && id.String() == strings.ToLower(s)
}

func escape(s string) string {
	if s == "" || isPlain(s) {
		return s
	}
	return url.PathEscape(s)
}

func unescape(s string) string {
	if plain, err := url.PathUnescape(s); err == nil {
		return plain
	}
	return s // somebody else's
}
