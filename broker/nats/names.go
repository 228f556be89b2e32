package nats

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/twostep-mq/twostep/broker"
)

// Names on the broker are fixed by docs/reference.md, "Broker names (NATS)".

// namePattern is what topics, inboxes, state keys and request names look like: tokens joined by dots.
var namePattern = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)

// outboxInbox begins the name of an inbox that gets receipts.
const outboxInbox = "outbox."

// names derives stream names and subjects from a prefix.
type names struct{ prefix string }

func checkName(what, name string) error {
	if !namePattern.MatchString(name) || len(name) > 200 {
		return fmt.Errorf("%w: %s %q: use tokens of A-Z a-z 0-9 _ - joined by dots, 200 bytes at most", broker.ErrInvalid, what, name)
	}
	return nil
}

// flat writes a dotted name as one token: streams and durables must not have dots.
func flat(name string) string { return strings.ReplaceAll(name, ".", "_-") }

func (n names) topicStream(topic string) string { return n.prefix + "-t-" + flat(topic) }

func (n names) topicSubject(topic string) string { return n.prefix + ".t." + topic + ".p0" }

func (n names) inboxStream() string { return n.prefix + "-inbox" }

func (n names) receiptStream() string { return n.prefix + "-receipt" }

func (n names) stateStream() string { return n.prefix + "-state" }

func (n names) stateSubject(key string) string { return n.prefix + ".s." + key }

func (n names) requestSubject(name string) string { return n.prefix + ".q." + name }

func (n names) bellSubject(name string) string { return n.prefix + ".b." + name }

// place is where an inbox lies: its stream, subject and durable consumer.
type place struct{ stream, subject, durable string }

func (n names) inbox(inbox string) place {
	if uuid, ok := strings.CutPrefix(inbox, outboxInbox); ok {
		return place{n.receiptStream(), n.prefix + ".r." + uuid, flat(uuid)}
	}
	return place{n.inboxStream(), n.prefix + ".i." + inbox, flat(inbox)}
}
