package kafka

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"

	"github.com/twostep-mq/twostep/broker"
)

// metadataVersion is the first in which Kafka (2.8 and later) tells the ids of topics. kafka-go ends at 8, and its transport
// answers Metadata requests from a cache; so this request is written here. The connection, its encryption and its login are
// kafka-go's.
const metadataVersion = 10

// errAnswer: what came is no answer to a Metadata request.
var errAnswer = errors.New("broker/kafka: the answer to a Metadata request is cut short")

// topicInfo is a topic as the cluster describes it. The id is its incarnation: a topic deleted and made again has another one.
type topicInfo struct {
	name string
	id   string
	// leaders has the node that leads each partition; -1: none does for now.
	leaders []int32
	// numbers of the partitions: 0, 1, …
	numbers []int
}

// describe asks the cluster about one topic. broker.ErrNoTopic: it is not there.
func (b *Broker) describe(ctx context.Context, topic string) (topicInfo, error) {
	m, err := b.roundTrip(ctx, &metadataRequest{clientID: b.cfg.Name, topics: []string{topic}})
	if err != nil {
		return topicInfo{}, err
	}
	answer, ok := m.(*metadataAnswer)
	if !ok || len(answer.topics) != 1 {
		return topicInfo{}, errAnswer
	}
	t := answer.topics[0]
	switch {
	case t.code == kafka.UnknownTopicOrPartition:
		return topicInfo{}, broker.ErrNoTopic
	case t.code != 0:
		return topicInfo{}, explain(t.code, "see topic "+topic)
	}
	return t.topicInfo, nil
}

// metadataRequest asks about topics by name; with none about the cluster alone, or about all that the account may see.
type metadataRequest struct {
	clientID string
	topics   []string
	all      bool
}

func (*metadataRequest) ApiKey() protocol.ApiKey { return protocol.Metadata } //nolint:revive // kafka-go names it

// Required has kafka-go call RawExchange.
func (*metadataRequest) Required(map[protocol.ApiKey]int16) bool { return true }

// RawExchange writes the request and reads the answer.
func (r *metadataRequest) RawExchange(rw io.ReadWriter) (protocol.Message, error) {
	if _, err := rw.Write(r.encode()); err != nil {
		return nil, err
	}
	var size [4]byte
	if _, err := io.ReadFull(rw, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > 64<<20 {
		return nil, fmt.Errorf("%w: %d bytes", errAnswer, n)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(rw, body); err != nil {
		return nil, err
	}
	d := &flexible{rest: body}
	d.int32() // correlation
	d.tags()
	answer := d.metadata()
	if d.short {
		return nil, errAnswer
	}
	return answer, nil
}

func (r *metadataRequest) encode() []byte {
	out := make([]byte, 4, 64)
	out = binary.BigEndian.AppendUint16(out, uint16(protocol.Metadata))
	out = binary.BigEndian.AppendUint16(out, metadataVersion)
	out = binary.BigEndian.AppendUint32(out, 1)
	out = binary.BigEndian.AppendUint16(out, uint16(len(r.clientID)))
	out = append(out, r.clientID...)
	out = append(out, 0)
	if r.all {
		out = append(out, 0)
	} else {
		out = binary.AppendUvarint(out, uint64(len(r.topics))+1)
	}
	for _, t := range r.topics {
		out = append(out, make([]byte, 16)...) // no id: by name
		out = binary.AppendUvarint(out, uint64(len(t))+1)
		out = append(out, t...)
		out = append(out, 0)
	}
	out = append(out, 0, 0, 0, 0) // make nothing, tell no rights; no tags
	binary.BigEndian.PutUint32(out, uint32(len(out)-4))
	return out
}

type metadataAnswer struct {
	nodes  []int32
	topics []describedTopic
}

type describedTopic struct {
	topicInfo
	code kafka.Error
	// replicas of the partition that has the fewest.
	replicas int
}

func (*metadataAnswer) ApiKey() protocol.ApiKey { return protocol.Metadata } //nolint:revive // kafka-go names it

// flexible reads the compact encoding of KIP-482. After the first thing missing everything reads as zero.
type flexible struct {
	rest  []byte
	short bool
}

func (d *flexible) take(n int) []byte {
	if d.short || n < 0 || n > len(d.rest) {
		d.short = true
		return nil
	}
	out := d.rest[:n]
	d.rest = d.rest[n:]
	return out
}

func (d *flexible) int32() int32 {
	if b := d.take(4); b != nil {
		return int32(binary.BigEndian.Uint32(b))
	}
	return 0
}

func (d *flexible) int16() int16 {
	if b := d.take(2); b != nil {
		return int16(binary.BigEndian.Uint16(b))
	}
	return 0
}

func (d *flexible) uvarint() int {
	n, size := binary.Uvarint(d.rest)
	if size <= 0 || n > 1<<30 {
		d.short = true
		return 0
	}
	d.rest = d.rest[size:]
	return int(n)
}

// length of a compact string or array; a null one has none.
func (d *flexible) length() int { return max(d.uvarint()-1, 0) }

func (d *flexible) string() string { return string(d.take(d.length())) }

func (d *flexible) tags() {
	for n := d.uvarint(); n > 0 && !d.short; n-- {
		d.uvarint()
		d.take(d.uvarint())
	}
}

// int32s skips an array and tells its length.
func (d *flexible) int32s() int {
	n := d.length()
	d.take(4 * n)
	return n
}

func (d *flexible) metadata() *metadataAnswer {
	d.int32() // throttled
	answer := &metadataAnswer{}
	for n := d.length(); n > 0 && !d.short; n-- {
		answer.nodes = append(answer.nodes, d.int32())
		d.string()
		d.int32() // port
		d.string()
		d.tags()
	}
	d.string() // cluster
	d.int32()  // controller
	for n := d.length(); n > 0 && !d.short; n-- {
		answer.topics = append(answer.topics, d.topic())
	}
	return answer
}

func (d *flexible) topic() describedTopic {
	t := describedTopic{code: kafka.Error(d.int16())}
	t.name = d.string()
	t.id = hex.EncodeToString(d.take(16))
	d.take(1) // internal
	for n := d.length(); n > 0 && !d.short; n-- {
		d.int16() // a partition without a leader says so here
		index, leader := int(d.int32()), d.int32()
		d.int32() // epoch
		if replicas := d.int32s(); t.replicas == 0 || replicas < t.replicas {
			t.replicas = replicas
		}
		d.int32s() // in sync
		d.int32s() // offline
		d.tags()
		for index >= len(t.leaders) && index < 1<<20 {
			t.leaders = append(t.leaders, -1)
		}
		if index >= 0 && index < len(t.leaders) {
			t.leaders[index] = leader
		}
	}
	d.int32() // rights
	d.tags()
	t.numbers = make([]int, len(t.leaders))
	for i := range t.numbers {
		t.numbers[i] = i
	}
	return t
}
