package broker

import (
	"fmt"
	"time"
)

// MaxPayload is the largest payload of a message in bytes. It leaves room for the headers below the 1 MiB (headers
// included) that NATS accepts by default.
const MaxPayload = 1_000_000

// Message is one message on its way through a broker. An adapter writes the typed fields as CloudEvents 1.0 and
// twostep-* headers (docs/reference.md, "Envelope") and carries Payload unchanged.
type Message struct {
	// ID is the message's UUID in its 36-character text form. Barriers name it. For a message without our headers it is
	// what ForeignID returns.
	ID string
	// Topic is the topic's name; empty on a message that was sent to an inbox and belongs to no topic, as a receipt.
	Topic string
	// Key orders messages: those of one topic and key are executed in commit order. Empty: no order.
	Key string
	// ContentType of Payload, as "application/json".
	ContentType string
	// Payload is carried as it is, never encoded again; at most MaxPayload bytes.
	Payload []byte
	// Headers are the sender's own, traceparent among them. Names are lower case; the prefixes "ce-", "twostep-" and
	// "nats-" are reserved.
	Headers map[string]string
	// Time is when Publish made the message, by the sender's clock.
	Time time.Time

	// GID is the global transaction, BranchID and Op the branch and the operation of a command ("01", "action"). A topic
	// message has the GID alone; where it equals ID it is not repeated on the wire.
	GID, BranchID, Op string

	// Outbox is the UUID of the outbox the message came from and Seq its row there. Empty on a foreign message.
	Outbox string
	Seq    int64
	// Prev is the ID of the key's previous unreleased message of this outbox and topic, or empty.
	Prev string
	// Attempt counts the relay's sends to this reader, from 1.
	Attempt int
}

// Position is a place in a topic: the incarnation of the stream (it changes when a broker's stream was made anew), the
// partition and the offset in it.
type Position struct {
	Stream    string
	Partition int
	Offset    uint64
}

// Delivery is a message as a reader gets it.
type Delivery struct {
	*Message
	Position Position
	// Redelivered says that the broker may have handed this message out before without it being settled. A consumer
	// treats it with suspicion: it may be what killed the process.
	Redelivered bool
	// Stored is when the broker stored the message, by the broker's clock.
	Stored time.Time
}

// ForeignID is the identity of a message without our headers: where it lies and when the broker stored it. The time tells a
// topic made anew, which hands its offsets out again, from the one before.
func ForeignID(topic string, p Position, stored time.Time) string {
	return fmt.Sprintf("%s/%d/%d@%d", topic, p.Partition, p.Offset, stored.UnixNano())
}

// Foreign reports whether the message was not published by a twostep outbox: nobody waits for its receipt.
func (d Delivery) Foreign() bool { return d.Outbox == "" }
