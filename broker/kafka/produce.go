package kafka

import (
	"context"
	"fmt"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/produce"
)

// Limits of one batch. Kafka's own limit (max.message.bytes of a topic) is 1,048,588 bytes by default and is for batches; a
// batch that is refused for its size is cut in two all the same.
const (
	batchRecords = 1000
	batchBytes   = 900_000
)

// acksAll: every replica in sync has the batch.
const acksAll = -1

// store writes one record batch to one partition and returns the offset of its first record. The batch is stored or it is not, but on
// an error nobody knows.
func (b *Broker) store(ctx context.Context, info topicInfo, partition int, batch []record, timeout time.Duration) (int64, error) {
	if partition >= len(info.leaders) || info.leaders[partition] < 0 {
		return 0, fmt.Errorf("%w: topic %s, partition %d", errMoved, info.name, partition)
	}
	records := make([]protocol.Record, len(batch))
	for i := range batch {
		records[i] = protocol.Record{Value: bytesOf(batch[i].value), Headers: batch[i].headers}
		if batch[i].key != nil {
			records[i].Key = protocol.NewBytes(batch[i].key)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	answer, err := ask[*produce.Response](ctx, b, info.leaders[partition], &produce.Request{
		Acks: acksAll, Timeout: int32(timeout.Milliseconds()),
		Topics: []produce.RequestTopic{{
			Topic: info.name,
			Partitions: []produce.RequestPartition{{
				Partition: int32(partition),
				RecordSet: protocol.RecordSet{Version: 2, Records: protocol.NewRecordReader(records...)},
			}},
		}},
	})
	if err != nil {
		return 0, err
	}
	if len(answer.Topics) != 1 || len(answer.Topics[0].Partitions) != 1 {
		return 0, fmt.Errorf("broker/kafka: the answer to a batch names %d topics", len(answer.Topics))
	}
	p := answer.Topics[0].Partitions[0]
	if p.ErrorCode != 0 {
		err := error(kafka.Error(p.ErrorCode))
		if p.ErrorMessage != "" {
			err = fmt.Errorf("%w: %s", err, p.ErrorMessage)
		}
		return 0, err
	}
	return p.BaseOffset, nil
}

// bytesOf makes an empty value a value: only nil is none.
func bytesOf(b []byte) protocol.Bytes {
	if b == nil {
		return nil
	}
	return protocol.NewBytes(b)
}

// storeUntil stores a batch, and again the same as long as the error may pass, until the deadline; so nothing later can come before
// it. It tells the incarnation that the last try went to. broker.ErrNoTopic: the topic is not there.
func (b *Broker) storeUntil(ctx context.Context, topic string, partition int, batch []record, deadline time.Time) (topicInfo, int64, error) {
	for wait := retryPause; ; wait = min(2*wait, retryPauseMax) {
		info, err := b.topics.get(ctx, topic)
		var offset int64
		if err == nil {
			// Half the time for one try, so that a node that hangs leaves time for another.
			timeout := max(time.Until(deadline)/2, 100*time.Millisecond)
			if offset, err = b.store(ctx, info, partition, batch, timeout); err == nil {
				b.topics.acknowledged(info, partition, offset, offset+int64(len(batch))-1)
				return info, offset, nil
			}
		}
		if !passing(err) || b.isClosed() {
			return info, 0, err
		}
		b.topics.forget(topic)
		if stale(err) {
			b.renew()
		}
		if time.Now().Add(wait).After(deadline) {
			return info, 0, fmt.Errorf("%w: %w", errAckTimeout, explain(err, "write to the topic"))
		}
		if !pause(ctx, wait) {
			return info, 0, ctx.Err()
		}
	}
}
