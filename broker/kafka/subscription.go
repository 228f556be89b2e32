package kafka

import (
	"context"
	"errors"
	"fmt"

	"github.com/segmentio/kafka-go"

	"github.com/twostep-mq/twostep/broker"
)

// EnsureSubscription commits an offset for every partition where the group has none: the end, or the first message that is not
// older than s.Since. So the reader gets what is stored from now on though it never ran; partitions that are added later are read
// from their beginning. Kafka forgets offsets that nobody has renewed for offsets.retention.minutes (7 days), unless a reader
// runs; a reader that is made again then begins at s.Since. Kafka compares nothing on a commit: of two calls at the same time the later
// end may count. What is skipped so has no receipt, and is sent again.
func (b *Broker) EnsureSubscription(ctx context.Context, s broker.SubscriptionSpec) error {
	if err := checkName("topic", s.Topic); err != nil {
		return err
	}
	if err := checkName("subscription uid", s.UID); err != nil {
		return err
	}
	err := b.retry(ctx, func(ctx context.Context) error {
		info, err := b.topics.look(ctx, b.names.topic(s.Topic))
		if err != nil {
			return err
		}
		at := int64(atEnd)
		if s.Since != 0 {
			at = millis(s.Since)
		}
		return b.begin(ctx, b.names.group(s.UID), info, at)
	})
	if err != nil {
		return fmt.Errorf("broker/kafka: subscription %s of topic %q: %w", s.UID, s.Topic, err)
	}
	return nil
}

// begin commits where a group begins that has committed nothing: at a time in Unix milliseconds, atFirst or atEnd.
func (b *Broker) begin(ctx context.Context, group string, info topicInfo, at int64) error {
	marks, err := b.marks(ctx, group, info)
	if err != nil {
		return err
	}
	none := map[int]mark{}
	for partition, m := range marks {
		if m.none() {
			none[partition] = mark{}
		}
	}
	if len(none) == 0 {
		return nil
	}
	if len(none) < len(marks) {
		at = atFirst // partitions that were added
	}
	offsets, err := b.listOffsets(ctx, info, at)
	if err != nil {
		return err
	}
	var ends []int64
	for partition := range none {
		if offsets[partition] < 0 && ends == nil {
			if ends, err = b.listOffsets(ctx, info, atEnd); err != nil {
				return err
			}
		}
		offset := offsets[partition]
		if offset < 0 { // everything is older
			offset = ends[partition]
		}
		none[partition] = mark{offset: offset, stream: info.id}
	}
	err = b.commit(ctx, group, asNobody(), info.name, none)
	if errors.Is(err, kafka.UnknownMemberId) || errors.Is(err, kafka.IllegalGeneration) || errors.Is(err, kafka.RebalanceInProgress) {
		return nil // readers run: the group is theirs
	}
	return err
}

// DeleteSubscription removes the group with its offsets. Readers that run are put out of it; they make it again.
func (b *Broker) DeleteSubscription(ctx context.Context, topic, uid string) error {
	if err := checkName("topic", topic); err != nil {
		return err
	}
	if err := checkName("subscription uid", uid); err != nil {
		return err
	}
	if err := b.removeGroup(ctx, b.names.group(uid)); err != nil {
		return fmt.Errorf("broker/kafka: delete subscription %s of topic %q: %w", uid, topic, err)
	}
	return nil
}

func (b *Broker) removeGroup(ctx context.Context, group string) error {
	return explain(b.retry(ctx, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, callWait)
		defer cancel()
		answer, err := b.client.DeleteGroups(ctx, &kafka.DeleteGroupsRequest{GroupIDs: []string{group}})
		if err == nil {
			err = answer.Errors[group]
		}
		switch {
		case errors.Is(err, kafka.GroupIdNotFound):
			return nil
		case errors.Is(err, kafka.NonEmptyGroup):
			if err := b.putOut(ctx, group); err != nil {
				return err
			}
			return fmt.Errorf("%w: group %s had members", kafka.GroupCoordinatorNotAvailable, group)
		}
		return err
	}), "delete group "+group)
}

// putOut has all members of a group leave it.
func (b *Broker) putOut(ctx context.Context, group string) error {
	answer, err := b.client.DescribeGroups(ctx, &kafka.DescribeGroupsRequest{GroupIDs: []string{group}})
	if err != nil {
		return err
	}
	var members []kafka.LeaveGroupRequestMember
	for _, g := range answer.Groups {
		if g.Error != nil {
			return g.Error
		}
		for _, m := range g.Members {
			members = append(members, kafka.LeaveGroupRequestMember{ID: m.MemberID})
		}
	}
	if len(members) == 0 {
		return nil
	}
	left, err := b.client.LeaveGroup(ctx, &kafka.LeaveGroupRequest{GroupID: group, Members: members})
	if err != nil {
		return err
	}
	return left.Error
}
