package kafka

import (
	"github.com/segmentio/kafka-go"

	"github.com/twostep-mq/twostep/broker"
)

// partitionOf chooses by the key, as Kafka's Java clients do: other programs that write the same keys write them to the same
// partitions. A message without a key lies anywhere, by its id.
//
// A topic that gets more partitions gives some keys another one. Their order holds all the same: a message names its key's unreleased
// predecessor (twostep-prev), and one that arrives before it is not taken but sent again.
func partitionOf(m *broker.Message, partitions []int) int {
	if len(partitions) < 2 {
		return 0
	}
	by := m.Key
	if by == "" {
		by = m.ID
	}
	return kafka.Murmur2Balancer{Consistent: true}.Balance(kafka.Message{Key: []byte(by)}, partitions...)
}
