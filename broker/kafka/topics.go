package kafka

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/createtopics"
	"github.com/segmentio/kafka-go/protocol/deletetopics"

	"github.com/twostep-mq/twostep/broker"
)

const week = "604800000" // milliseconds

// ErrNotDeclared: a topic is missing, and Config.DeclareOff leaves making it to others.
var ErrNotDeclared = errors.New("broker/kafka: a topic is missing")

// setting is one of a topic's.
type setting struct{ name, value string }

func list(settings []setting) string {
	var out strings.Builder
	for _, s := range settings {
		fmt.Fprintf(&out, ", %s=%s", s.name, s.value)
	}
	return out.String()
}

// EnsureTopic makes the topic with the partitions, replicas and bytes that Config says. One that is there is left as it is, unless it
// drops messages for want of room and is to be Retained. Kafka never refuses a message because a topic is full: what is
// Retained is kept for a week, whatever room it takes.
func (b *Broker) EnsureTopic(ctx context.Context, t broker.TopicSpec) error {
	if err := checkName("topic", t.Name); err != nil {
		return err
	}
	name := b.names.topic(t.Name)
	_, made, err := b.ensure(ctx, name, b.cfg.Partitions, b.cfg.topicSettings(t))
	if err == nil && t.Retained && !made && !b.byOthers(name) {
		err = b.retain(ctx, name)
	}
	if err != nil {
		return fmt.Errorf("broker/kafka: make topic %q: %w", t.Name, err)
	}
	return nil
}

func (c Config) topicSettings(t broker.TopicSpec) []setting {
	if t.Retained {
		return retained()
	}
	return []setting{{"retention.bytes", strconv.FormatInt(max(c.TopicMaxBytes/int64(c.Partitions), 1<<20), 10)}}
}

func retained() []setting { return []setting{{"retention.bytes", "-1"}, {"retention.ms", week}} }

// ensure makes a topic that is not there, and waits until the cluster knows it with all its leaders.
func (b *Broker) ensure(ctx context.Context, name string, partitions int, settings []setting) (info topicInfo, made bool, err error) {
	err = b.retry(ctx, func(ctx context.Context) error {
		info, err = b.topics.look(ctx, name)
		switch {
		case errors.Is(err, broker.ErrNoTopic) && b.byOthers(name):
			return fmt.Errorf("%w: %s: make it with %d partitions%s, or let twostep make it (broker.declare: on)", ErrNotDeclared, name, partitions, list(settings))
		case errors.Is(err, broker.ErrNoTopic) && made:
			return fmt.Errorf("%w: %s was made and is not known yet", kafka.LeaderNotAvailable, name)
		case errors.Is(err, broker.ErrNoTopic):
			if err := b.create(ctx, name, partitions, settings); err != nil {
				return err
			}
			made = true
			return fmt.Errorf("%w: %s was made just now", kafka.LeaderNotAvailable, name)
		case err != nil:
			return err
		}
		return led(info)
	})
	return info, made, explain(err, "make topic "+name)
}

// led is an error while a partition has no leader.
func led(info topicInfo) error {
	for partition, leader := range info.leaders {
		if leader < 0 {
			return fmt.Errorf("%w: topic %s, partition %d", kafka.LeaderNotAvailable, info.name, partition)
		}
	}
	return nil
}

func (b *Broker) create(ctx context.Context, name string, partitions int, settings []setting) error {
	t := createtopics.RequestTopic{Name: name, NumPartitions: int32(partitions), ReplicationFactor: int16(b.cfg.Replication)}
	for _, s := range settings {
		t.Configs = append(t.Configs, createtopics.RequestConfig{Name: s.name, Value: s.value})
	}
	answer, err := ask[*createtopics.Response](ctx, b, -1, &createtopics.Request{
		Topics: []createtopics.RequestTopic{t}, TimeoutMs: int32(callWait.Milliseconds()),
	})
	if err != nil {
		return err
	}
	for _, t := range answer.Topics {
		switch code := kafka.Error(t.ErrorCode); code {
		case 0:
			b.log.Info("topic made", "topic", name, "partitions", partitions)
		case kafka.TopicAlreadyExists: // somebody else was first
		case kafka.InvalidTopic:
			return fmt.Errorf("%w: %w: %s: Kafka does not tell names apart that differ in dots and underscores alone; choose another name", errNameTaken, code, t.ErrorMessage)
		default:
			return fmt.Errorf("%w: %s", code, t.ErrorMessage)
		}
	}
	return nil
}

// retain lifts the bound in bytes from a topic that has one.
func (b *Broker) retain(ctx context.Context, name string) error {
	return explain(b.retry(ctx, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, callWait)
		defer cancel()
		answer, err := b.client.DescribeConfigs(ctx, &kafka.DescribeConfigsRequest{Resources: []kafka.DescribeConfigRequestResource{{
			ResourceType: kafka.ResourceTypeTopic, ResourceName: name, ConfigNames: []string{"retention.bytes"},
		}}})
		if err != nil {
			return err
		}
		for _, r := range answer.Resources {
			if r.Error != nil {
				return r.Error
			}
			if len(r.ConfigEntries) == 1 && r.ConfigEntries[0].ConfigValue == "-1" {
				return nil
			}
		}
		change := kafka.IncrementalAlterConfigsRequestResource{ResourceType: kafka.ResourceTypeTopic, ResourceName: name}
		for _, s := range retained() {
			change.Configs = append(change.Configs, kafka.IncrementalAlterConfigsRequestConfig{Name: s.name, Value: s.value})
		}
		changed, err := b.client.IncrementalAlterConfigs(ctx, &kafka.IncrementalAlterConfigsRequest{
			Resources: []kafka.IncrementalAlterConfigsRequestResource{change},
		})
		if err != nil {
			return err
		}
		for _, r := range changed.Resources {
			if r.Error != nil {
				return r.Error
			}
		}
		return nil
	}), "alter the settings of topic "+name)
}

// DeleteTopic removes the topic; the offsets of its subscriptions go with it.
func (b *Broker) DeleteTopic(ctx context.Context, topic string) error {
	if err := checkName("topic", topic); err != nil {
		return err
	}
	if err := b.remove(ctx, b.names.topic(topic)); err != nil {
		return fmt.Errorf("broker/kafka: delete topic %q: %w", topic, err)
	}
	return nil
}

// byOthers reports whether others make and remove the Kafka topic.
func (b *Broker) byOthers(name string) bool {
	return b.cfg.DeclareOff && !strings.HasPrefix(name, b.names.inbox(""))
}

// remove deletes a topic and waits until the cluster no longer knows it.
func (b *Broker) remove(ctx context.Context, name string) error {
	if b.byOthers(name) {
		b.log.Warn("topic is no longer needed; broker.declare is off, so it stays", "topic", name)
		return nil
	}
	id := ""
	err := b.retry(ctx, func(ctx context.Context) error {
		info, err := b.topics.look(ctx, name)
		if errors.Is(err, broker.ErrNoTopic) || err == nil && id != "" && info.id != id {
			return nil
		}
		if err != nil {
			return err
		}
		id = info.id
		answer, err := ask[*deletetopics.Response](ctx, b, -1, &deletetopics.Request{
			TopicNames: []string{name}, TimeoutMs: int32(callWait.Milliseconds()),
		})
		if err != nil {
			return err
		}
		for _, t := range answer.Responses {
			if code := kafka.Error(t.ErrorCode); code != 0 && code != kafka.UnknownTopicOrPartition {
				return code
			}
		}
		return fmt.Errorf("%w: %s is being deleted", kafka.LeaderNotAvailable, name)
	})
	b.topics.forget(name)
	return explain(err, "delete topic "+name)
}
