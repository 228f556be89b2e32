package kafka

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/twostep-mq/twostep/broker"
)

// positionReads bounds the requests that Positions has running at a time.
const positionReads = 8

// Positions reads the partitions' bounds and what each group has committed. A group that is behind what the topic still holds has
// settled nothing of it.
func (b *Broker) Positions(ctx context.Context, topic string, uids []string) (broker.Positions, error) {
	if err := checkName("topic", topic); err != nil {
		return broker.Positions{}, err
	}
	for _, uid := range uids {
		if err := checkName("subscription uid", uid); err != nil {
			return broker.Positions{}, err
		}
	}
	var ps broker.Positions
	err := b.retry(ctx, func(ctx context.Context) (err error) {
		ps, err = b.positions(ctx, topic, uids)
		return err
	})
	if errors.Is(err, broker.ErrNoTopic) {
		return broker.Positions{}, broker.ErrNoTopic
	}
	if err != nil {
		return broker.Positions{}, fmt.Errorf("broker/kafka: positions of topic %q: %w", topic, err)
	}
	return ps, nil
}

func (b *Broker) positions(ctx context.Context, topic string, uids []string) (broker.Positions, error) {
	info, err := b.topics.look(ctx, b.names.topic(topic))
	if err != nil {
		return broker.Positions{}, err
	}
	all, err := b.bounds(ctx, info)
	if err != nil {
		return broker.Positions{}, err
	}
	ps := broker.Positions{Stream: info.id, Floor: make(map[string][]uint64, len(uids))}
	for _, at := range all {
		ps.First = append(ps.First, portOffset(at.first))
		ps.Last = append(ps.Last, uint64(at.end))
	}
	return ps, b.floors(ctx, info, uids, ps.Floor)
}

// floors fills in the floors, with a few requests at a time.
func (b *Broker) floors(ctx context.Context, info topicInfo, uids []string, floors map[string][]uint64) error {
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		first error
	)
	next := make(chan string)
	for range min(positionReads, len(uids)) {
		wg.Go(func() {
			for uid := range next {
				marks, err := b.marks(ctx, b.names.group(uid), info)
				mu.Lock()
				if err != nil && first == nil {
					first = fmt.Errorf("subscription %s: %w", uid, err)
				}
				if floor := floorOf(marks); err == nil && floor != nil {
					floors[uid] = floor
				}
				mu.Unlock()
			}
		})
	}
	for _, uid := range uids {
		next <- uid
	}
	close(next)
	wg.Wait()
	return first
}

// floorOf is nil where the group has committed nothing. A partition that was added since has nothing settled.
func floorOf(marks []mark) []uint64 {
	var out []uint64
	for partition, m := range marks {
		if m.none() {
			continue
		}
		if out == nil {
			out = make([]uint64, len(marks))
		}
		out[partition] = uint64(m.offset) // below it, counted from 1
	}
	return out
}
