package kafka

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/twostep-mq/twostep/broker"
)

// Names on the broker are fixed by docs/reference.md, "Broker names (Kafka)".

// namePattern is what topics, inboxes, state keys and request names look like: tokens joined by dots.
var namePattern = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)

// outboxInbox begins the name of an inbox that gets receipts.
const outboxInbox = "outbox."

// names derives the names of Kafka's topics and groups from a prefix.
type names struct{ prefix string }

func checkName(what, name string) error {
	if !namePattern.MatchString(name) || len(name) > 200 {
		return fmt.Errorf("%w: %s %q: use tokens of A-Z a-z 0-9 _ - joined by dots, 200 bytes at most", broker.ErrInvalid, what, name)
	}
	return nil
}

func (n names) topic(topic string) string { return n.prefix + ".t." + topic }

func (n names) inbox(inbox string) string { return n.prefix + ".i." + inbox }

func (n names) state() string { return n.prefix + ".state" }

func (n names) calls() string { return n.prefix + ".calls" }

// group of a subscription; the group of an inbox is named as its topic.
func (n names) group(uid string) string { return n.prefix + ".s." + uid }

func isReceipts(inbox string) bool { return strings.HasPrefix(inbox, outboxInbox) }
