package kafka

import (
	"context"
	"fmt"
	"io"

	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/createtopics"
	"github.com/segmentio/kafka-go/protocol/deletetopics"
	"github.com/segmentio/kafka-go/protocol/fetch"
	"github.com/segmentio/kafka-go/protocol/heartbeat"
	"github.com/segmentio/kafka-go/protocol/listoffsets"
	"github.com/segmentio/kafka-go/protocol/produce"
	"github.com/segmentio/kafka-go/protocol/syncgroup"
)

// call is a request of kafka-go's in the version that this package wants.
type call struct {
	clientID string
	req      protocol.Message
}

// nodeCall sends a request to the node that this package knows to lead, for any number of partitions. kafka-go's own routing goes by a
// picture of all topics that is up to seconds old and cannot be renewed; its Fetch takes one partition, and its ListOffsets asks
// for each on a connection of its own.
type nodeCall struct {
	call
	node int32 // -1: the node that the request asks for, or any
}

// groupCall sends a request to the coordinator of a group.
type groupCall struct {
	call
	group string
}

// Group names it.
func (c *groupCall) Group() string { return c.group }

// called wraps an answer: at some answers kafka-go's transport would wait for its picture of topics to change.
type called struct{ protocol.Message }

// versions are those of Kafka 2.8 that kafka-go knows too; Kafka 4 still takes them.
func (c *call) version() int16 {
	switch c.req.(type) {
	case *produce.Request:
		return 8
	case *fetch.Request:
		return 11
	case *listoffsets.Request:
		return 5
	case *createtopics.Request:
		return 4
	case *deletetopics.Request:
		return 3
	case *syncgroup.Request:
		return 3
	case *heartbeat.Request:
		return 0 // kafka-go misreads the answers of later ones: Heartbeat tells no error then
	}
	return 0
}

func (c *call) ApiKey() protocol.ApiKey { return c.req.ApiKey() } //nolint:revive // kafka-go names it

// Required has kafka-go call RawExchange.
func (c *call) Required(map[protocol.ApiKey]int16) bool { return true }

// Broker chooses the node.
func (c *nodeCall) Broker(cluster protocol.Cluster) (protocol.Broker, error) {
	if c.node < 0 {
		if r, ok := c.req.(protocol.BrokerMessage); ok {
			return r.Broker(cluster)
		}
		return protocol.Broker{ID: -1}, nil
	}
	node, ok := cluster.Brokers[c.node]
	if !ok {
		return node, fmt.Errorf("%w: node %d is not known", errMoved, c.node)
	}
	return node, nil
}

// RawExchange writes the request and reads the answer.
func (c *call) RawExchange(rw io.ReadWriter) (protocol.Message, error) {
	m, err := protocol.RoundTrip(rw, c.version(), 1, c.clientID, c.req)
	if err != nil {
		return nil, err
	}
	return called{m}, nil
}

// ask sends req to the node and returns its answer.
func ask[A protocol.Message](ctx context.Context, b *Broker, node int32, req protocol.Message) (A, error) {
	return answerOf[A](b.roundTrip(ctx, &nodeCall{call{b.cfg.Name, req}, node}))
}

// askGroup sends req to the coordinator of the group and returns its answer.
func askGroup[A protocol.Message](ctx context.Context, b *Broker, group string, req protocol.Message) (A, error) {
	return answerOf[A](b.roundTrip(ctx, &groupCall{call{b.cfg.Name, req}, group}))
}

func answerOf[A protocol.Message](m protocol.Message, err error) (answer A, _ error) {
	if err != nil {
		return answer, err
	}
	wrapped, ok := m.(called)
	if ok {
		answer, ok = wrapped.Message.(A)
	}
	if !ok {
		return answer, fmt.Errorf("broker/kafka: an answer of type %T", m)
	}
	return answer, nil
}
