package kafka

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/twostep-mq/twostep/broker"
)

// publisher has a lane for each partition that is written to. A lane has one batch outstanding at a time, and tries the same batch again
// before anything later: so order holds, whatever becomes of an acknowledgement.
type publisher struct {
	b     *Broker
	slots chan struct{} // one for each message under way
	work  sync.WaitGroup

	mu     sync.Mutex
	closed bool
	lanes  map[lanePlace]*lane
}

type lanePlace struct {
	topic     string // Kafka's name
	partition int
}

// lane is a queue of messages for one partition. It is there only while it has any.
type lane struct {
	place lanePlace
	queue []outgoing
}

type outgoing struct {
	record
	deadline time.Time
	done     func(broker.Position, error)
}

func newPublisher(b *Broker) *publisher {
	return &publisher{b: b, slots: make(chan struct{}, b.cfg.MaxInFlight), lanes: map[lanePlace]*lane{}}
}

// send queues one record; it blocks while as many as may be are under way. The error is that of ctx or broker.ErrClosed; done is
// then not called.
func (p *publisher) send(ctx context.Context, at lanePlace, r record, done func(broker.Position, error)) error {
	select {
	case p.slots <- struct{}{}:
	default:
		select {
		case p.slots <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		case <-p.b.life.Done():
			return broker.ErrClosed
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		<-p.slots
		return broker.ErrClosed
	}
	l := p.lanes[at]
	if l == nil {
		l = &lane{place: at}
		p.lanes[at] = l
		p.work.Go(func() { p.run(l) })
	}
	l.queue = append(l.queue, outgoing{record: r, deadline: time.Now().Add(p.b.cfg.AckTimeout), done: done})
	return nil
}

// run sends what the lane has until it is empty.
func (p *publisher) run(l *lane) {
	for {
		batch := p.next(l)
		if len(batch) == 0 {
			return
		}
		p.deliver(l.place, batch)
	}
}

// next takes a batch from the queue, or removes the empty lane.
func (p *publisher) next(l *lane) []outgoing {
	p.mu.Lock()
	defer p.mu.Unlock()
	n, bytes := 0, 0
	for n < min(len(l.queue), batchRecords) {
		bytes += l.queue[n].size()
		if n > 0 && bytes > batchBytes {
			break
		}
		n++
	}
	if n == 0 {
		delete(p.lanes, l.place)
		return nil
	}
	batch := l.queue[:n:n]
	l.queue = l.queue[n:]
	return batch
}

// deliver stores a batch and tells its messages. One that is too large is cut in two, until the message is found that is.
func (p *publisher) deliver(at lanePlace, batch []outgoing) {
	records := make([]record, len(batch))
	for i := range batch {
		records[i] = batch[i].record
	}
	deadline := batch[0].deadline
	if time.Now().After(deadline) {
		p.tell(batch, errAckTimeout)
		return
	}
	info, offset, err := p.b.storeUntil(p.b.life, at.topic, at.partition, records, deadline)
	switch {
	case p.b.isClosed() && err != nil:
		p.tell(batch, broker.ErrClosed)
	case tooLarge(err) && len(batch) > 1:
		half := len(batch) / 2
		p.deliver(at, batch[:half])
		p.deliver(at, batch[half:])
	case err != nil:
		if !errors.Is(err, broker.ErrNoTopic) {
			err = refusal(err)
		}
		p.tell(batch, err)
	default:
		for i, m := range batch {
			m.done(broker.Position{Stream: info.id, Partition: at.partition, Offset: portOffset(offset + int64(i))}, nil)
			<-p.slots
		}
	}
}

func (p *publisher) tell(batch []outgoing, err error) {
	for _, m := range batch {
		m.done(broker.Position{}, err)
		<-p.slots
	}
}

// close waits until every message was told.
func (p *publisher) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.work.Wait()
}

// portOffset is the port's offset of a record of Kafka's.
func portOffset(offset int64) uint64 { return uint64(max(offset, -1) + 1) }
