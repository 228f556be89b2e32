package kafka

import (
	"context"
	"sync"
)

// queueBytes bounds what waits for the handler, by what one answer of the broker may bring more.
const queueBytes = 8 << 20

// queued is a record that waits for the handler.
type queued struct {
	record
	partition int
}

// queue is between those who fetch and the handler.
type queue struct {
	most int // messages beyond which nothing is fetched
	wake chan struct{}
	room chan struct{}

	mu    sync.Mutex
	items []queued
	bytes int
	// next is the offset to fetch from, by partition. Whoever fetches a partition has it alone.
	next map[int]int64
}

func newQueue(batch int) *queue {
	return &queue{most: 2 * batch, wake: make(chan struct{}, 1), room: make(chan struct{}, 1), next: map[int]int64{}}
}

func ring(bell chan struct{}) {
	select {
	case bell <- struct{}{}:
	default:
	}
}

// put appends what was fetched.
func (q *queue) put(f fetched) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, r := range f.records {
		q.items = append(q.items, queued{r, f.partition})
		q.bytes += len(r.value)
	}
	q.next[f.partition] = f.next
	ring(q.wake)
}

// from tells where to go on, for the given partitions.
func (q *queue) from(partitions []int) map[int]int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	out := make(map[int]int64, len(partitions))
	for _, p := range partitions {
		out[p] = q.next[p]
	}
	return out
}

// waitForRoom returns when there is room, or ctx has ended.
func (q *queue) waitForRoom(ctx context.Context) {
	for ctx.Err() == nil {
		q.mu.Lock()
		full := len(q.items) >= q.most || q.bytes >= queueBytes
		q.mu.Unlock()
		if !full {
			ring(q.room) // others may wait, too
			return
		}
		select {
		case <-q.room:
		case <-ctx.Done():
		}
	}
}

// take returns the oldest messages, n at most, when there are any; none when ctx has ended.
func (q *queue) take(ctx context.Context, n int) []queued {
	for ctx.Err() == nil {
		q.mu.Lock()
		n := min(n, len(q.items))
		batch := q.items[:n:n]
		q.items = q.items[n:]
		if len(q.items) == 0 {
			q.items = nil
		}
		for _, m := range batch {
			q.bytes -= len(m.value)
		}
		q.mu.Unlock()
		if n > 0 {
			ring(q.room)
			return batch
		}
		select {
		case <-q.wake:
		case <-ctx.Done():
		}
	}
	return nil
}
