package nats

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/twostep-mq/twostep/broker"
)

// The envelope: CloudEvents 1.0 in binary mode and twostep-* headers, as docs/reference.md has them.
const (
	headerSpecVersion = "ce-specversion"
	headerID          = "ce-id"
	headerSource      = "ce-source"
	headerType        = "ce-type"
	headerTime        = "ce-time"
	headerKey         = "ce-partitionkey"
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

// envelope writes headers; it is reused from message to message, for nats.go copies what it is given.
type envelope struct {
	header nats.Header
	values []string
}

func newEnvelope() *envelope {
	return &envelope{header: make(nats.Header, 16), values: make([]string, 0, 16)}
}

func (e *envelope) set(name, value string) {
	n := len(e.values)
	e.values = append(e.values, value)
	e.header[name] = e.values[n : n+1 : n+1]
}

func (e *envelope) setIf(name, value string) {
	if value != "" {
		e.set(name, escape(value))
	}
}

// encode returns the headers of m, valid until the next call. A header that cannot be carried is an error: nothing is
// dropped in silence.
func (e *envelope) encode(m *broker.Message) (nats.Header, error) {
	clear(e.header)
	e.values = e.values[:0]
	e.set(headerSpecVersion, "1.0")
	e.setIf(headerID, m.ID)
	if m.Outbox != "" {
		e.set(headerSource, sourcePrefix+escape(m.Outbox))
		e.set(headerOutbox, escape(m.Outbox))
		e.set(headerSeq, strconv.FormatInt(m.Seq, 10))
	} else {
		e.set(headerSource, sourcePrefix)
	}
	e.setIf(headerType, m.Topic)
	if !m.Time.IsZero() {
		e.set(headerTime, m.Time.UTC().Format(time.RFC3339Nano))
	}
	e.setIf(headerKey, m.Key)
	if m.ContentType != "" {
		e.set(headerContentType, escapeContentType(m.ContentType))
	}
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
			return nil, err
		}
		e.set(name, escape(value))
	}
	return e.header, nil
}

// checkHeaderName allows what an HTTP field name allows, in lower case, outside the reserved prefixes.
func checkHeaderName(name string) error {
	ok := name != "" && !reserved(name) && name != headerContentType
	for i := 0; ok && i < len(name); i++ {
		c := name[i]
		ok = c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || strings.IndexByte("!#$&'*+-.^_`|~", c) >= 0
	}
	if !ok {
		return fmt.Errorf("%w: header name %q: use lower-case letters, digits and - . _; ce-, twostep-, nats- and content-type are taken", broker.ErrInvalid, name)
	}
	return nil
}

func reserved(name string) bool {
	return strings.HasPrefix(name, "ce-") || strings.HasPrefix(name, "twostep-") || strings.HasPrefix(name, "nats-")
}

// decode reads a message. What lacks a valid identity of ours (id, outbox, row number) is foreign: its identity is the place
// where it lies, and its headers are handed on as they are. topic is the topic it was read from; of a message from an inbox it
// is empty, and the message says it.
func decode(header nats.Header, payload []byte, topic string, at broker.Position, stored time.Time) *broker.Message {
	m := &broker.Message{Topic: topic, Payload: payload, Attempt: 1}
	var own int // headers of the sender's
	for name, values := range header {
		if len(values) == 0 {
			continue
		}
		v := values[0]
		switch strings.ToLower(name) {
		case headerID:
			m.ID = unescape(v)
		case headerType:
			if topic == "" {
				m.Topic = unescape(v)
			}
		case headerTime:
			if t, err := time.Parse(time.RFC3339Nano, v); err == nil {
				m.Time = t.UTC()
			}
		case headerKey:
			m.Key = unescape(v)
		case headerContentType:
			m.ContentType = unescape(v)
		case headerGID:
			m.GID = unescape(v)
		case headerBranch:
			m.BranchID = unescape(v)
		case headerOp:
			m.Op = unescape(v)
		case headerOutbox:
			m.Outbox = unescape(v)
		case headerSeq:
			m.Seq, _ = strconv.ParseInt(v, 10, 64)
		case headerPrev:
			m.Prev = unescape(v)
		case headerAttempt:
			if n, err := strconv.Atoi(v); err == nil && n > 1 {
				m.Attempt = n
			}
		case headerSpecVersion, headerSource:
		default:
			own++
		}
	}
	if !isUUID(m.ID) || !isUUID(m.Outbox) || m.Seq < 1 {
		foreign(m, header, at, stored)
		return m
	}
	if m.GID == "" {
		m.GID = m.ID
	}
	if own > 0 {
		m.Headers = ownHeaders(header, own, true)
	}
	return m
}

// foreign gives the message the identity of its place. Its CloudEvents attributes stay readable among the headers.
func foreign(m *broker.Message, header nats.Header, at broker.Position, stored time.Time) {
	m.ID = broker.ForeignID(m.Topic, at, stored)
	m.GID, m.BranchID, m.Op = m.ID, "", ""
	m.Outbox, m.Seq, m.Prev, m.Attempt = "", 0, "", 1
	if len(header) > 0 {
		m.Headers = ownHeaders(header, len(header), false)
	}
}

// ownHeaders returns the sender's own headers in lower case. Of names that differ in case alone the last in byte order counts:
// the one in lower case, if there is one.
func ownHeaders(header nats.Header, size int, ours bool) map[string]string {
	out := make(map[string]string, size)
	var from map[string]string // by lower-case name, the name as it came, where the two differ
	for name, values := range header {
		lower := strings.ToLower(name)
		if len(values) == 0 || lower == headerContentType || strings.HasPrefix(lower, "nats-") {
			continue
		}
		if reserved(lower) && (ours || strings.HasPrefix(lower, "twostep-")) {
			continue
		}
		if lower != name {
			if _, there := out[lower]; there && from[lower] == "" || from[lower] > name {
				continue
			}
			if from == nil {
				from = make(map[string]string)
			}
			from[lower] = name
		} else {
			delete(from, lower)
		}
		v := strings.Join(values, ", ")
		if ours {
			v = unescape(v)
		}
		out[lower] = v
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
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if s[i] != '-' {
				return false
			}
			continue
		}
		if _, ok := unhex(s[i]); !ok {
			return false
		}
	}
	return true
}
