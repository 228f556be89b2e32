package topics

import (
	"encoding/hex"
	"strings"
	"unicode/utf8"

	"github.com/twostep-mq/twostep/broker"
)

// maxID bounds a message's identity in bytes, as the barrier's column does.
const maxID = 256

// sound makes of what anybody may put on a broker what every database can keep: text that is valid UTF-8 without NUL. A message that
// no database took would stand in the way of all others for ever. Our own senders' messages pass unchanged.
func sound(d broker.Delivery) broker.Delivery {
	if isSound(d.Message) {
		return d
	}
	m := *d.Message
	if m.ID == "" || len(m.ID) > maxID || !isText(m.ID) {
		m.ID = broker.ForeignID(m.Topic, d.Position, d.Stored)
		m.Outbox, m.Seq, m.Prev = "", 0, ""
	}
	if !isText(m.Key) {
		m.Key = "%" + hex.EncodeToString([]byte(m.Key)) // another key stays another key
	}
	if !isText(m.Prev) {
		m.Prev = ""
	}
	m.GID, m.ContentType = text(m.GID), text(m.ContentType)
	m.BranchID, m.Op = text(m.BranchID), text(m.Op)
	if m.Headers != nil {
		headers := make(map[string]string, len(m.Headers))
		for name, value := range m.Headers {
			headers[text(name)] = text(value)
		}
		m.Headers = headers
	}
	d.Message = &m
	return d
}

func isSound(m *broker.Message) bool {
	if m.ID == "" || len(m.ID) > maxID {
		return false
	}
	for _, s := range [...]string{m.ID, m.Key, m.Prev, m.GID, m.ContentType, m.BranchID, m.Op} {
		if !isText(s) {
			return false
		}
	}
	for name, value := range m.Headers {
		if !isText(name) || !isText(value) {
			return false
		}
	}
	return true
}

func isText(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }

func text(s string) string {
	if isText(s) {
		return s
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "�"), "\x00", "�")
}
