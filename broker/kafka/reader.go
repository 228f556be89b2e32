package kafka

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/twostep-mq/twostep/broker"
)

var (
	// errRebalance: the group divides its partitions anew.
	errRebalance = errors.New("broker/kafka: the group divides its partitions anew")
	// errHandedBack: the handler failed too often: its messages go to another member.
	errHandedBack = errors.New("broker/kafka: messages handed back")
	// errUnsettled: the generation ended between two tries of the handler.
	errUnsettled = errors.New("broker/kafka: the handler was stopped before it succeeded")
	// errAnew: the topic was deleted, or made anew.
	errAnew = errors.New("broker/kafka: the topic is not the one that was read")
)

// inPlace is how often in a row a handler may fail before its batch is handed back; it gets it again after firstRetry, doubled each time.
const (
	inPlace    = 6
	firstRetry = 50 * time.Millisecond
)

// reader reads the partitions that one generation gives to this member.
type reader struct {
	*consumption
	info topicInfo
	gen  generation

	queue *queue
	// marks is how far each partition is settled.
	marks map[int]mark
	// suspect: messages below this offset may have been in the hands of a reader that died, by partition.
	suspect map[int]int64

	mu sync.Mutex
	// reason is why the generation is over for this member.
	reason error
	over   context.Context
	end    context.CancelFunc
}

func newReader(c *consumption, info topicInfo, g generation) *reader {
	r := &reader{consumption: c, info: info, gen: g, queue: newQueue(c.batch), marks: map[int]mark{}, suspect: map[int]int64{}}
	r.over, r.end = context.WithCancel(context.Background())
	return r
}

// stop ends the generation for this member; the first reason counts.
func (r *reader) stop(reason error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.reason == nil {
		r.reason = reason
	}
	r.end()
}

func (r *reader) why() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reason
}

// run reads until ctx ends (nil) or the generation does. The heart beats until everything is committed, so that the group waits.
func (r *reader) run(ctx context.Context, handle func(context.Context, []broker.Delivery) error) error {
	defer context.AfterFunc(ctx, func() { r.stop(nil) })()
	defer context.AfterFunc(r.b.life, func() { r.stop(broker.ErrClosed) })()
	defer r.end()
	beating, still := context.WithCancel(context.Background())
	var heart sync.WaitGroup
	heart.Go(func() { r.beat(beating) })
	defer heart.Wait()
	defer still()
	if len(r.gen.partitions) == 0 {
		r.b.log.Debug("reader stands by", "source", r.name, "generation", r.gen.generation)
		<-r.over.Done()
		return r.why()
	}
	if err := r.begin(ctx); err != nil {
		return err
	}
	r.b.log.Debug("reader reads", "source", r.name, "generation", r.gen.generation, "partitions", r.gen.partitions)
	var work sync.WaitGroup
	work.Go(r.fetch)
	held, err := r.handleAll(ctx, handle)
	r.stop(err)
	work.Wait()
	if !memberGone(err) && !r.b.isClosed() {
		err = r.farewell(ctx, held)
	}
	if why := r.why(); why != nil {
		return why
	}
	return err
}

// begin reads where the partitions are, and notes with the group that they have a reader: if it dies, the next one knows.
func (r *reader) begin(ctx context.Context) error {
	marks, err := r.b.marks(ctx, r.group, r.info)
	if err != nil {
		return err
	}
	all, err := r.b.bounds(ctx, r.info)
	if err != nil {
		return err
	}
	for _, p := range r.gen.partitions {
		m, at := marks[p], all[p]
		if m.none() || m.offset < at.first || m.offset > at.end {
			m.offset = at.first
		}
		r.suspect[p] = min(m.offset+int64(m.window), at.end)
		r.marks[p] = mark{offset: m.offset, stream: r.info.id, window: r.window()}
		r.queue.next[p] = m.offset
	}
	r.b.log.Debug("reader begins", "source", r.name, "generation", r.gen.generation, "marks", r.marks)
	return r.b.commit(ctx, r.group, r.gen.membership, r.info.name, r.marks)
}

// window is how many messages a reader may have seen beyond its last commit: the batch in the handler.
func (r *reader) window() int { return r.batch }

// handleAll gives batches to the handler until the generation is over, and commits each before the next. held is what the handler has seen
// and not settled.
func (r *reader) handleAll(ctx context.Context, handle func(context.Context, []broker.Delivery) error) (held []queued, err error) {
	for {
		batch := r.queue.take(r.over, r.batch)
		if len(batch) == 0 || ctx.Err() != nil {
			return nil, r.why()
		}
		if err := r.settle(ctx, batch, handle); err != nil {
			return batch, err
		}
		for _, m := range batch {
			at := r.marks[m.partition]
			at.offset = m.offset + 1
			r.marks[m.partition] = at
		}
		// What cannot be committed now is committed on leaving, unless this member is no longer one.
		if err := r.write(r.over, r.marksOf(batch)); err != nil && !passing(err) {
			return nil, err
		}
	}
}

func (r *reader) marksOf(batch []queued) map[int]mark {
	out := map[int]mark{}
	for _, m := range batch {
		out[m.partition] = r.marks[m.partition]
	}
	return out
}

// settle gives a batch to the handler until it succeeds.
func (r *reader) settle(ctx context.Context, batch []queued, handle func(context.Context, []broker.Delivery) error) error {
	wait := firstRetry
	for again := false; ; again = true {
		err := handle(ctx, r.deliveries(batch, again))
		if err == nil {
			r.failures = 0
			return nil
		}
		r.failures++
		r.b.log.Warn("handler failed", "source", r.name, "messages", len(batch), "failures", r.failures, "error", err)
		if r.failures >= inPlace {
			r.failures = 0
			return errHandedBack
		}
		if !pause(r.over, wait) {
			return errUnsettled
		}
		wait *= 2
	}
}

func (r *reader) deliveries(batch []queued, again bool) []broker.Delivery {
	ds := make([]broker.Delivery, len(batch))
	for i := range batch {
		m := &batch[i]
		at := broker.Position{Stream: r.info.id, Partition: m.partition, Offset: portOffset(m.offset)}
		ds[i] = broker.Delivery{
			Message: decode(&m.record, r.topic, at), Position: at,
			Redelivered: again || m.offset < r.suspect[m.partition], Stored: m.time,
		}
	}
	return ds
}

// write commits, trying until ctx ends. While the group divides anew, its members may still commit.
func (r *reader) write(ctx context.Context, marks map[int]mark) error {
	for wait := retryPause; ; wait = min(2*wait, retryPauseMax) {
		err := r.b.commit(context.WithoutCancel(ctx), r.group, r.gen.membership, r.info.name, marks)
		if err == nil || !passing(err) || r.b.isClosed() || !pause(ctx, wait) {
			return err
		}
		if stale(err) {
			r.b.renew()
		}
	}
}

// farewell commits that nothing is in hand any more, but for what the handler has seen and not settled.
func (r *reader) farewell(ctx context.Context, held []queued) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewellWait)
	defer cancel()
	for p, m := range r.marks {
		m.window = 0
		for _, q := range held {
			if q.partition == p {
				m.window = int(q.offset - m.offset + 1)
			}
		}
		r.marks[p] = m
	}
	err := r.write(ctx, r.marks)
	if err != nil {
		r.b.log.Warn("reader could not commit what it settled last; it comes again", "source", r.name, "error", err)
	}
	return err
}

// beat keeps this member in the group, and looks after the topic.
func (r *reader) beat(ctx context.Context) {
	tick := time.NewTicker(r.me.beatEvery())
	defer tick.Stop()
	heard, looked := time.Now(), time.Now()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		case <-r.b.life.Done():
			return
		}
		err := r.me.beat(ctx, r.gen)
		switch {
		case err == nil:
			heard = time.Now()
		case ctx.Err() != nil:
			return
		case errors.Is(err, kafka.RebalanceInProgress):
			heard = time.Now()
			r.stop(errRebalance)
		case memberGone(err), time.Since(heard) > r.b.cfg.SessionTimeout, !passing(err):
			r.stop(fmt.Errorf("broker/kafka: heartbeat of %s: %w", r.name, explain(err, "read in group "+r.group)))
			if memberGone(err) {
				return
			}
		case stale(err):
			r.b.renew()
		}
		if time.Since(looked) > lookEvery {
			looked = time.Now()
			r.look(ctx)
		}
	}
}

// lookEvery is how often a reader looks whether its topic is still the same and has no more partitions than it knows.
const lookEvery = time.Second

func (r *reader) look(ctx context.Context) {
	info, err := r.b.topics.look(ctx, r.info.name)
	switch {
	case errors.Is(err, broker.ErrNoTopic), err == nil && info.id != r.info.id:
		r.stop(errAnew)
	case err == nil && len(info.leaders) != len(r.info.leaders):
		r.b.log.Info("topic has more partitions", "topic", r.info.name, "partitions", len(info.leaders))
		r.stop(errRebalance)
	}
}
