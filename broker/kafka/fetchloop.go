package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/segmentio/kafka-go"
)

// fetch fetches the partitions of this generation, one request at a time from each node that leads some, until it is over. When a
// partition is led elsewhere, everything is looked up and begun again; what was queued stays.
func (r *reader) fetch() {
	for wait := retryPause; r.over.Err() == nil; wait = min(2*wait, retryPauseMax) {
		began := r.queue.from(r.gen.partitions)
		err := r.fetchOnce()
		if r.over.Err() != nil {
			return
		}
		r.b.log.Debug("fetching starts again", "source", r.name, "reason", err)
		if errors.Is(err, kafka.OffsetOutOfRange) {
			// The oldest were dropped, or the topic is another one.
			r.stop(fmt.Errorf("%w: %w", errAnew, err))
			return
		}
		if !passing(err) {
			r.stop(explain(err, "read topic "+r.info.name))
			return
		}
		if stale(err) {
			r.b.renew()
		}
		if after := r.queue.from(r.gen.partitions); !same(began, after) {
			wait = retryPause
		}
		pause(r.over, wait)
	}
}

func same(a, b map[int]int64) bool {
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return true
}

// fetchOnce fetches until an error.
func (r *reader) fetchOnce() error {
	info, err := r.b.topics.look(r.over, r.info.name)
	if err != nil {
		return err
	}
	if info.id != r.info.id {
		return errAnew
	}
	ctx, cancel := context.WithCancelCause(r.over)
	defer cancel(nil)
	var all sync.WaitGroup
	for node, partitions := range byLeader(info) {
		partitions = slices.DeleteFunc(partitions, func(p int) bool { return !slices.Contains(r.gen.partitions, p) })
		if len(partitions) == 0 {
			continue
		}
		if node < 0 {
			cancel(fmt.Errorf("%w: topic %s, partitions %v", errMoved, info.name, partitions))
			break
		}
		all.Go(func() { cancel(r.fetchFrom(ctx, node, partitions)) })
	}
	all.Wait()
	return context.Cause(ctx)
}

// fetchFrom fetches from one node.
func (r *reader) fetchFrom(ctx context.Context, node int32, partitions []int) error {
	for {
		r.queue.waitForRoom(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		all, err := r.b.fetch(ctx, node, r.info.name, r.queue.from(partitions))
		if err != nil {
			return err
		}
		for _, f := range all {
			if f.err != nil {
				return f.err
			}
			r.queue.put(f)
		}
	}
}
