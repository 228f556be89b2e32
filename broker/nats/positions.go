package nats

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/twostep-mq/twostep/broker"
)

const (
	// positionReads bounds the requests that Positions has running at a time.
	positionReads = 8
	// countedAfter is when a reader that seems to have nothing to do is asked again.
	countedAfter = 20 * time.Millisecond
)

// Positions reads the stream first and then each consumer. The order matters: a consumer with nothing pending and nothing
// unacknowledged has settled everything up to the last offset that the stream had before, and its own floor stays behind
// where the last messages were never for it.
func (b *Broker) Positions(ctx context.Context, topic string, uids []string) (broker.Positions, error) {
	if err := checkName("topic", topic); err != nil {
		return broker.Positions{}, err
	}
	var ps broker.Positions
	err := b.api(ctx, func(ctx context.Context) (err error) {
		ps, err = b.positions(ctx, topic, uids)
		return err
	})
	if noStream(err) {
		b.ids.forget(topic)
		return broker.Positions{}, broker.ErrNoTopic
	}
	if err != nil {
		return broker.Positions{}, fmt.Errorf("broker/nats: positions of topic %q: %w", topic, err)
	}
	return ps, nil
}

func (b *Broker) positions(ctx context.Context, topic string, uids []string) (broker.Positions, error) {
	stream, err := b.js.Stream(ctx, b.names.topicStream(topic))
	if err != nil {
		return broker.Positions{}, err
	}
	info := stream.CachedInfo()
	b.ids.learn(topic, streamID(info))
	first := info.State.FirstSeq
	if info.State.Msgs == 0 {
		first = info.State.LastSeq + 1
	}
	ps := broker.Positions{
		Stream: streamID(info),
		First:  []uint64{first},
		Last:   []uint64{info.State.LastSeq},
		Floor:  make(map[string][]uint64, len(uids)),
	}
	return ps, floors(ctx, stream, uids, ps)
}

// floors fills in ps.Floor, with a few requests at a time.
func floors(ctx context.Context, stream jetstream.Stream, uids []string, ps broker.Positions) error {
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		first error
	)
	next := make(chan string)
	for range min(positionReads, len(uids)) {
		wg.Go(func() {
			for uid := range next {
				floor, there, err := floorOf(ctx, stream, uid, ps.Last[0])
				mu.Lock()
				if err != nil && first == nil {
					first = err
				}
				if there {
					ps.Floor[uid] = []uint64{floor}
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

// floorOf reads one consumer; last is the stream's last offset as it was before.
func floorOf(ctx context.Context, stream jetstream.Stream, uid string, last uint64) (floor uint64, there bool, err error) {
	if err := checkName("subscription uid", uid); err != nil {
		return 0, false, err
	}
	c, err := stream.Consumer(ctx, flat(uid))
	if noConsumer(err) || noStream(err) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("subscription %s: %w", uid, err)
	}
	info := c.CachedInfo()
	if idle(info) && info.AckFloor.Stream < last {
		// The server counts a message as pending a moment after it has acknowledged it to its sender.
		pause(ctx, countedAfter)
		info, err = c.Info(ctx)
		if noConsumer(err) || noStream(err) {
			return 0, false, nil
		}
		if err != nil {
			return 0, false, fmt.Errorf("subscription %s: %w", uid, err)
		}
	}
	floor = info.AckFloor.Stream
	if idle(info) {
		floor = max(floor, last)
	}
	return floor, true, nil
}

// idle reports whether the consumer has nothing to deliver and waits for no acknowledgement.
func idle(info *jetstream.ConsumerInfo) bool { return info.NumPending == 0 && info.NumAckPending == 0 }
