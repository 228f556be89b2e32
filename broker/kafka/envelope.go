package kafka

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/segmentio/kafka-go/protocol"

	"github.com/twostep-mq/twostep/broker"
)

// The envelope: CloudEvents 1.0 in the binary mode of its Kafka binding and twostep-* headers, as docs/reference.md has them. Header
// values are UTF-8 and are not encoded. The key is the record's key, too.
const (
	headerSpecVersion = "ce_specversion"
	headerID          = "ce_id"
	headerSource      = "ce_source"
	headerType        = "ce_type"
	headerTime        = "ce_time"
	headerKey         = "ce_partitionkey"
	headerContentType = "content-type"
	headerGID         = "twostep-gid"
	headerBranch      = "twostep-branch"
	headerOp          = "twostep-op"
	headerOutbox      = "twostep-outbox"
	headerSeq         = "twostep-seq"
	headerPrev        = "twostep-prev"
	headerAttempt     = "twostep-attempt"

	sourcePrefix = "/twostep/"
)

// record is what lies in a partition.
type record struct {
	offset     int64
	key, value []byte
	headers    []protocol.Header
	time       time.Time
}

// size estimates what the record takes in a batch, in bytes.
func (r *record) size() int {
	n := 32 + len(r.key) + len(r.value)
	for _, h := range r.headers {
		n += 8 + len(h.Key) + len(h.Value)
	}
	return n
}

// envelope writes headers. Their values lie one behind the other: one allocation for all.
type envelope struct {
	headers []protocol.Header
	values  []byte
}

func (e *envelope) set(name string, value ...string) {
	from := len(e.values)
	for _, part := range value {
		e.values = append(e.values, part...)
	}
	e.headers = append(e.headers, protocol.Header{Key: name, Value: e.values[from:len(e.values):len(e.values)]})
}

func (e *envelope) setIf(name, value string) {
	if value != "" {
		e.set(name, value)
	}
}

// encode writes m. A header that cannot be carried is an error: nothing is dropped in silence.
func encode(m *broker.Message) (record, error) {
	size := 256 + len(m.Topic) + len(m.Key) + len(m.ContentType)
	for _, value := range m.Headers {
		size += len(value)
	}
	e := envelope{headers: make([]protocol.Header, 0, 14+len(m.Headers)), values: make([]byte, 0, size)}
	e.set(headerSpecVersion, "1.0")
	e.setIf(headerID, m.ID)
	e.set(headerSource, sourcePrefix, m.Outbox)
	if m.Outbox != "" {
		e.set(headerOutbox, m.Outbox)
		e.set(headerSeq, strconv.FormatInt(m.Seq, 10))
	}
	e.setIf(headerType, m.Topic)
	if !m.Time.IsZero() {
		e.set(headerTime, m.Time.UTC().Format(time.RFC3339Nano))
	}
	e.setIf(headerKey, m.Key)
	e.setIf(headerContentType, m.ContentType)
	if m.GID != m.ID {
		e.setIf(headerGID, m.GID)
	}
	e.setIf(headerBranch, m.BranchID)
	e.setIf(headerOp, m.Op)
	e.setIf(headerPrev, m.Prev)
	if m.Attempt > 1 {
		e.set(headerAttempt, strconv.Itoa(m.Attempt))
	}
	for name, value := range m.Headers {
		if err := checkHeaderName(name); err != nil {
			return record{}, err
		}
		e.set(name, value)
	}
	r := record{value: m.Payload, headers: e.headers}
	if r.value == nil {
		r.value = []byte{} // a null value is a tombstone
	}
	if m.Key != "" {
		r.key = []byte(m.Key)
	}
	return r, nil
}

// checkHeaderName allows what an HTTP field name allows, in lower case, outside the reserved prefixes.
func checkHeaderName(name string) error {
	ok := name != "" && !reserved(name) && name != headerContentType
	for i := 0; ok && i < len(name); i++ {
		c := name[i]
		ok = c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || strings.IndexByte("!#$&'*+-.^_`|~", c) >= 0
	}
	if !ok {
		return fmt.Errorf("%w: header name %q: use lower-case letters, digits and - . _; ce-, ce_, twostep-, nats- and content-type are taken", broker.ErrInvalid, name)
	}
	return nil
}

func reserved(name string) bool {
	for _, prefix := range []string{"ce_", "ce-", "twostep-", "nats-"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// decode reads a message. What lacks a valid identity of ours (id, outbox, row number) is foreign: its identity is the place
// where it lies, its key the record's, and its headers are handed on as they are. topic is the topic it was read from; of a
// message from an inbox it is empty, and the message says it.
func decode(r *record, topic string, at broker.Position) *broker.Message {
	m := &broker.Message{Topic: topic, Payload: r.value, Attempt: 1}
	if m.Payload == nil {
		m.Payload = []byte{}
	}
	var own int // headers of the sender's
	for _, h := range r.headers {
		if !take(m, h.Key, string(h.Value)) {
			own++
		}
	}
	if !isUUID(m.ID) || !isUUID(m.Outbox) || m.Seq < 1 {
		foreign(m, r, at)
		return m
	}
	if m.GID == "" {
		m.GID = m.ID
	}
	if own > 0 {
		m.Headers = ownHeaders(r.headers, true)
	}
	return m
}

// take fills in the field that the header is for; false: it is the sender's own.
func take(m *broker.Message, name, v string) bool {
	switch strings.ToLower(name) {
	case headerID:
		m.ID = v
	case headerType:
		if m.Topic == "" {
			m.Topic = v
		}
	case headerTime:
		if t, err := time.Parse(time.RFC3339Nano, v); err == nil {
			m.Time = t.UTC()
		}
	case headerKey:
		m.Key = v
	case headerContentType:
		m.ContentType = v
	case headerGID:
		m.GID = v
	case headerBranch:
		m.BranchID = v
	case headerOp:
		m.Op = v
	case headerOutbox:
		m.Outbox = v
	case headerSeq:
		m.Seq, _ = strconv.ParseInt(v, 10, 64)
	case headerPrev:
		m.Prev = v
	case headerAttempt:
		if n, err := strconv.Atoi(v); err == nil && n > 1 {
			m.Attempt = n
		}
	case headerSpecVersion, headerSource:
	default:
		return false
	}
	return true
}

// foreign gives the message the identity of its place. Its CloudEvents attributes stay readable among the headers.
func foreign(m *broker.Message, r *record, at broker.Position) {
	m.ID = broker.ForeignID(m.Topic, at, r.time)
	m.GID, m.BranchID, m.Op = m.ID, "", ""
	m.Outbox, m.Seq, m.Prev, m.Attempt = "", 0, "", 1
	if m.Key == "" && utf8.Valid(r.key) {
		m.Key = string(r.key)
	}
	m.Headers = ownHeaders(r.headers, false)
}

// ownHeaders returns the sender's own headers in lower case; of several with one name the last counts.
func ownHeaders(headers []protocol.Header, ours bool) map[string]string {
	out := make(map[string]string, len(headers))
	for _, h := range headers {
		name := strings.ToLower(h.Key)
		if name == headerContentType || reserved(name) && (ours || strings.HasPrefix(name, "twostep-")) {
			continue
		}
		out[name] = string(h.Value)
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// isUUID reports whether s is a UUID in its 36-character text form.
func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return false
			}
		case c >= '0' && c <= '9', c >= 'a' && c <= 'f', c >= 'A' && c <= 'F':
		default:
			return false
		}
	}
	return true
}
