package kafka

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/listoffsets"
)

// Timestamps that Kafka gives a meaning.
const (
	atFirst = -2
	atEnd   = -1
)

// bounds are the first offset of a partition and the one that its next record gets.
type bounds struct{ first, end int64 }

// bounds asks for those of all partitions.
func (b *Broker) bounds(ctx context.Context, info topicInfo) ([]bounds, error) {
	first, err := b.listOffsets(ctx, info, atFirst)
	if err != nil {
		return nil, err
	}
	end, err := b.listOffsets(ctx, info, atEnd)
	if err != nil {
		return nil, err
	}
	out := make([]bounds, len(first))
	for i := range out {
		out[i] = bounds{first[i], max(end[i], first[i])}
	}
	return out, nil
}

// listOffsets asks for the first offset whose time is not before the given one (in Unix milliseconds), by partition; -1: there is
// none. It asks each leader once.
func (b *Broker) listOffsets(ctx context.Context, info topicInfo, at int64) ([]int64, error) {
	out := make([]int64, len(info.leaders))
	for node, partitions := range byLeader(info) {
		if node < 0 {
			return nil, fmt.Errorf("%w: topic %s, partitions %v", errMoved, info.name, partitions)
		}
		t := listoffsets.RequestTopic{Topic: info.name}
		for _, p := range partitions {
			t.Partitions = append(t.Partitions, listoffsets.RequestPartition{Partition: int32(p), CurrentLeaderEpoch: -1, Timestamp: at})
		}
		answer, err := ask[*listoffsets.Response](ctx, b, node, &listoffsets.Request{ReplicaID: -1, Topics: []listoffsets.RequestTopic{t}})
		if err != nil {
			return nil, err
		}
		for _, t := range answer.Topics {
			for _, p := range t.Partitions {
				if p.ErrorCode != 0 {
					return nil, fmt.Errorf("%w: topic %s, partition %d", kafka.Error(p.ErrorCode), info.name, p.Partition)
				}
				if int(p.Partition) < len(out) {
					out[p.Partition] = p.Offset
				}
			}
		}
	}
	return out, nil
}

// byLeader lists partitions by the node that leads them.
func byLeader(info topicInfo) map[int32][]int {
	out := map[int32][]int{}
	for partition, leader := range info.leaders {
		out[leader] = append(out[leader], partition)
	}
	return out
}

// mark is what a group has committed for a partition: everything below the offset is settled. With each commit it tells the
// incarnation of the topic, for Kafka may keep a commit beyond the topic's deletion; and how many messages behind the offset a
// reader may have had in hand when it died (0: it said goodbye).
type mark struct {
	offset int64
	stream string
	window int
}

// none: the group has committed nothing for the partition.
func (m mark) none() bool { return m.offset < 0 }

const markVersion = "1"

func (m mark) metadata() string { return markVersion + " " + m.stream + " " + strconv.Itoa(m.window) }

// parseMark reads what metadata says; what another program committed has no incarnation, and that of the topic is taken for it.
func parseMark(offset int64, metadata, stream string) mark {
	fields := strings.Fields(metadata)
	if offset < 0 || len(fields) != 3 || fields[0] != markVersion {
		return mark{offset: offset, stream: stream}
	}
	window, err := strconv.Atoi(fields[2])
	if err != nil {
		return mark{offset: offset, stream: stream}
	}
	return mark{offset: offset, stream: fields[1], window: max(window, 0)}
}

// marks reads what the group has committed, by partition. What belongs to another incarnation counts as nothing.
func (b *Broker) marks(ctx context.Context, group string, info topicInfo) ([]mark, error) {
	ctx, cancel := context.WithTimeout(ctx, callWait)
	defer cancel()
	answer, err := b.client.OffsetFetch(ctx, &kafka.OffsetFetchRequest{GroupID: group, Topics: map[string][]int{info.name: info.numbers}})
	if err != nil {
		return nil, err
	}
	if answer.Error != nil && !errors.Is(answer.Error, kafka.GroupIdNotFound) {
		return nil, explain(answer.Error, "read the offsets of group "+group)
	}
	out := make([]mark, len(info.leaders))
	for i := range out {
		out[i].offset = -1
	}
	for _, p := range answer.Topics[info.name] {
		if p.Error != nil {
			return nil, explain(p.Error, "read the offsets of group "+group)
		}
		if p.Partition >= len(out) {
			continue
		}
		if m := parseMark(p.CommittedOffset, p.Metadata, info.id); m.stream == info.id {
			out[p.Partition] = m
		}
	}
	return out, nil
}

// asNobody is the generation of a commit that is made for a group without members.
func asNobody() membership { return membership{generation: -1} }

// membership names a member of a group in one of its generations.
type membership struct {
	member     string
	generation int
}

// commit writes marks, by partition.
func (b *Broker) commit(ctx context.Context, group string, as membership, topic string, marks map[int]mark) error {
	ctx, cancel := context.WithTimeout(ctx, callWait)
	defer cancel()
	commits := make([]kafka.OffsetCommit, 0, len(marks))
	for partition, m := range marks {
		commits = append(commits, kafka.OffsetCommit{Partition: partition, Offset: m.offset, Metadata: m.metadata()})
	}
	sort.Slice(commits, func(i, j int) bool { return commits[i].Partition < commits[j].Partition })
	answer, err := b.client.OffsetCommit(ctx, &kafka.OffsetCommitRequest{
		GroupID: group, GenerationID: as.generation, MemberID: as.member, Topics: map[string][]kafka.OffsetCommit{topic: commits},
	})
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range answer.Topics[topic] {
		if p.Error != nil {
			errs = append(errs, fmt.Errorf("partition %d: %w", p.Partition, p.Error))
		}
	}
	if len(errs) > 0 {
		return explain(errors.Join(errs...), "commit the offsets of group "+group)
	}
	return nil
}

// millis is a time in Unix nanoseconds as Kafka counts it, never later.
func millis(nanoseconds int64) int64 { return time.Unix(0, nanoseconds).UnixMilli() }
