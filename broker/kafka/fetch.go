package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/fetch"
)

const (
	// fetchWait is how long the broker waits for messages before it answers that there are none.
	fetchWait = 2 * time.Second
	// fetchBytes bounds an answer, partitionBytes what it has of one partition. A larger message comes alone.
	fetchBytes     = 4 << 20
	partitionBytes = 1 << 20
)

// fetched is what came of one partition.
type fetched struct {
	partition int
	records   []record
	// next is the offset to go on with. It may be beyond the last record: transaction markers have offsets, too.
	next int64
	// end is the offset that the partition's next record gets.
	end int64
	err error
}

// fetch asks a node for what it has behind the given offsets of partitions that it leads.
func (b *Broker) fetch(ctx context.Context, node int32, topic string, from map[int]int64) ([]fetched, error) {
	t := fetch.RequestTopic{Topic: topic}
	for partition, offset := range from {
		t.Partitions = append(t.Partitions, fetch.RequestPartition{
			Partition: int32(partition), CurrentLeaderEpoch: -1, FetchOffset: offset, LogStartOffset: -1, PartitionMaxBytes: partitionBytes,
		})
	}
	ctx, cancel := context.WithTimeout(ctx, fetchWait+callWait)
	defer cancel()
	answer, err := ask[*fetch.Response](ctx, b, node, &fetch.Request{
		ReplicaID: -1, MaxWaitTime: int32(fetchWait.Milliseconds()), MinBytes: 1, MaxBytes: fetchBytes,
		SessionID: -1, SessionEpoch: -1, Topics: []fetch.RequestTopic{t},
	})
	if err != nil {
		return nil, err
	}
	if answer.ErrorCode != 0 {
		return nil, kafka.Error(answer.ErrorCode)
	}
	var out []fetched
	for _, t := range answer.Topics {
		for _, p := range t.Partitions {
			f := fetched{partition: int(p.Partition), next: from[int(p.Partition)], end: p.HighWatermark}
			if p.ErrorCode != 0 {
				f.err = fmt.Errorf("%w: topic %s, partition %d", kafka.Error(p.ErrorCode), topic, p.Partition)
			} else {
				f.err = f.read(p.RecordSet.Records)
			}
			out = append(out, f)
		}
	}
	return out, nil
}

// read takes the records out of the batches. The first batch may begin before the offset asked for.
func (f *fetched) read(set protocol.RecordReader) error {
	stream, ok := set.(*protocol.RecordStream)
	if !ok {
		return nil // nothing came
	}
	for _, batch := range stream.Records {
		_, control := batch.(*protocol.ControlBatch)
		for {
			r, err := batch.ReadRecord()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return fmt.Errorf("broker/kafka: read a record of partition %d: %w", f.partition, err)
			}
			key, value, err := contentOf(r)
			if err != nil {
				return fmt.Errorf("broker/kafka: read a record of partition %d: %w", f.partition, err)
			}
			if r.Offset < f.next {
				continue
			}
			f.next = r.Offset + 1
			if !control {
				f.records = append(f.records, record{offset: r.Offset, key: key, value: value, headers: r.Headers, time: r.Time})
			}
		}
	}
	return nil
}

// contentOf copies key and value, and gives the buffers they lie in back.
func contentOf(r *protocol.Record) (key, value []byte, err error) {
	if r.Key != nil {
		key, err = protocol.ReadAll(r.Key)
		err = errors.Join(err, r.Key.Close())
	}
	if r.Value != nil {
		var more error
		value, more = protocol.ReadAll(r.Value)
		err = errors.Join(err, more, r.Value.Close())
	}
	return key, value, err
}
