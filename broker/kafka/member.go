package kafka

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/consumer"
	"github.com/segmentio/kafka-go/protocol/heartbeat"
	"github.com/segmentio/kafka-go/protocol/syncgroup"
)

const (
	// protocolType and protocolName are what members of a group must have in common.
	protocolType = "consumer"
	protocolName = "twostep-sticky"
)

// member is this process in a consumer group. kafka-go's ConsumerGroup falls silent while a reader drains, so that a slow handler is put
// out of the group and its messages run elsewhere, too; it cannot tell where a partition was; and its commits carry no metadata.
// So the protocol is spoken here, with kafka-go's requests.
type member struct {
	b     *Broker
	group string
	// id is what the group calls this member; empty: it does not know it.
	id string
	// owned are the partitions it has in the last generation.
	owned []int
}

// generation is a member's part in a group until the next one joins or leaves.
type generation struct {
	membership
	partitions []int
}

// join takes part in the group's next generation. It returns when all members have, which can take as long as their handlers
// run.
func (m *member) join(ctx context.Context, info topicInfo) (generation, error) {
	ctx, cancel := context.WithTimeout(ctx, m.b.cfg.RebalanceTimeout+m.b.cfg.SessionTimeout+callWait)
	defer cancel()
	answer, err := m.b.client.JoinGroup(ctx, m.joinRequest(info))
	if err == nil {
		err = answer.Error
	}
	if errors.Is(err, kafka.MemberIDRequired) {
		m.id = answer.MemberID
		answer, err = m.b.client.JoinGroup(ctx, m.joinRequest(info))
		if err == nil {
			err = answer.Error
		}
	}
	if err != nil {
		return generation{}, m.failed(err, "join group "+m.group)
	}
	m.id = answer.MemberID
	sync := &syncgroup.Request{GroupID: m.group, GenerationID: int32(answer.GenerationID), MemberID: m.id}
	if answer.LeaderID == answer.MemberID {
		if sync.Assignments, err = m.lead(info, answer.Members); err != nil {
			return generation{}, err
		}
	}
	synced, err := askGroup[*syncgroup.Response](ctx, m.b, m.group, sync)
	if err == nil && synced.ErrorCode != 0 {
		err = kafka.Error(synced.ErrorCode)
	}
	var assignment consumer.Assignment
	if err == nil {
		err = protocol.Unmarshal(synced.Assignments, consumer.MaxVersionSupported, &assignment)
	}
	if err != nil {
		return generation{}, m.failed(err, "join group "+m.group)
	}
	m.owned = nil
	for _, t := range assignment.AssignedPartitions {
		for _, p := range t.Partitions {
			if t.Topic == info.name && int(p) < len(info.leaders) {
				m.owned = append(m.owned, int(p))
			}
		}
	}
	return generation{membership{m.id, answer.GenerationID}, m.owned}, nil
}

// joinRequest names the partitions that there are: a member that sees more of them makes the group divide them anew.
func (m *member) joinRequest(info topicInfo) *kafka.JoinGroupRequest {
	return &kafka.JoinGroupRequest{
		GroupID: m.group, MemberID: m.id, ProtocolType: protocolType,
		SessionTimeout: m.b.cfg.SessionTimeout, RebalanceTimeout: m.b.cfg.RebalanceTimeout,
		Protocols: []kafka.GroupProtocol{{Name: protocolName, Metadata: kafka.GroupProtocolSubscription{
			Topics: []string{info.name}, UserData: []byte(info.id + " " + strconv.Itoa(len(info.leaders))),
			OwnedPartitions: map[string][]int{info.name: m.owned},
		}}},
	}
}

// lead divides the partitions among the members.
func (m *member) lead(info topicInfo, members []kafka.JoinGroupResponseMember) ([]syncgroup.RequestAssignment, error) {
	claimants := make([]claimant, len(members))
	for i, other := range members {
		claimants[i] = claimant{other.ID, other.Metadata.OwnedPartitions[info.name]}
	}
	var out []syncgroup.RequestAssignment
	for id, partitions := range assign(len(info.leaders), claimants) {
		t := consumer.TopicPartition{Topic: info.name}
		for _, p := range partitions {
			t.Partitions = append(t.Partitions, int32(p))
		}
		part, err := protocol.Marshal(consumer.MaxVersionSupported, consumer.Assignment{
			Version: consumer.MaxVersionSupported, AssignedPartitions: []consumer.TopicPartition{t},
		})
		if err != nil {
			return nil, fmt.Errorf("broker/kafka: divide the partitions of group %s: %w", m.group, err)
		}
		out = append(out, syncgroup.RequestAssignment{MemberID: id, Assignment: part})
	}
	return out, nil
}

// failed forgets what the group no longer holds true of this member.
func (m *member) failed(err error, what string) error {
	if errors.Is(err, kafka.UnknownMemberId) || errors.Is(err, kafka.FencedInstanceID) {
		m.id, m.owned = "", nil
	}
	if errors.Is(err, kafka.IllegalGeneration) {
		m.owned = nil
	}
	return fmt.Errorf("broker/kafka: %w", explain(err, what))
}

// beat tells the group that this member lives.
func (m *member) beat(ctx context.Context, g generation) error {
	ctx, cancel := context.WithTimeout(ctx, callWait)
	defer cancel()
	answer, err := askGroup[*heartbeat.Response](ctx, m.b, m.group, &heartbeat.Request{
		GroupID: m.group, GenerationID: int32(g.generation), MemberID: g.member,
	})
	if err == nil && answer.ErrorCode != 0 {
		err = kafka.Error(answer.ErrorCode)
	}
	return err
}

// beatEvery is the time between heartbeats, and bounds how soon members learn of others.
func (m *member) beatEvery() time.Duration { return min(m.b.cfg.SessionTimeout/5, time.Second) }

// leave hands the partitions over at once.
func (m *member) leave(ctx context.Context) {
	if m.id == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewellWait)
	defer cancel()
	_, err := m.b.client.LeaveGroup(ctx, &kafka.LeaveGroupRequest{GroupID: m.group, Members: []kafka.LeaveGroupRequestMember{{ID: m.id}}})
	if err != nil {
		m.b.log.Debug("reader did not leave its group", "group", m.group, "error", err)
	}
	m.id, m.owned = "", nil
}
