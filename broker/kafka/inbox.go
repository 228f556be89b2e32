package kafka

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twostep-mq/twostep/broker"
)

// EnsureInbox makes the inbox: a topic of one partition, kept for a week, read by the group of the same name.
func (b *Broker) EnsureInbox(ctx context.Context, inbox string) error {
	_, err := b.ensureInbox(ctx, inbox)
	return err
}

func (b *Broker) ensureInbox(ctx context.Context, inbox string) (topicInfo, error) {
	if err := checkName("inbox", inbox); err != nil {
		return topicInfo{}, err
	}
	info, _, err := b.ensure(ctx, b.names.inbox(inbox), 1, []setting{{"retention.ms", week}, {"retention.bytes", "-1"}})
	if err != nil {
		return info, fmt.Errorf("broker/kafka: make inbox %q: %w", inbox, err)
	}
	return info, nil
}

// DeleteInbox removes the topic and the group.
func (b *Broker) DeleteInbox(ctx context.Context, inbox string) error {
	if err := checkName("inbox", inbox); err != nil {
		return err
	}
	name := b.names.inbox(inbox)
	err := b.removeGroup(ctx, name)
	if err == nil {
		err = b.remove(ctx, name)
	}
	b.rooms.forget(name)
	if err != nil {
		return fmt.Errorf("broker/kafka: delete inbox %q: %w", inbox, err)
	}
	return nil
}

// Send stores messages in an inbox, batch after batch, each acknowledged before the next. What is too large, and what comes after it,
// is not sent.
func (b *Broker) Send(ctx context.Context, inbox string, ms []*broker.Message) (int, error) {
	if err := checkName("inbox", inbox); err != nil {
		return 0, err
	}
	if b.isClosed() {
		return 0, broker.ErrClosed
	}
	limit := b.cfg.InboxMessages
	if isReceipts(inbox) {
		limit = b.cfg.ReceiptMessages
	}
	name := b.names.inbox(inbox)
	sent, err := 0, error(nil)
	for sent < len(ms) && err == nil {
		var n int
		n, err = b.sendBatch(ctx, name, ms[sent:], limit)
		sent += n
	}
	if errors.Is(err, broker.ErrNoTopic) {
		err = broker.ErrNoInbox
	}
	if err != nil {
		return sent, fmt.Errorf("broker/kafka: send to inbox %q: %w", inbox, err)
	}
	return sent, nil
}

// sendBatch sends the beginning of ms.
func (b *Broker) sendBatch(ctx context.Context, name string, ms []*broker.Message, limit int) (int, error) {
	room, err := b.rooms.of(ctx, name, limit)
	if err != nil {
		return 0, err
	}
	if room < 1 {
		return 0, fmt.Errorf("%w: %d messages wait in it", broker.ErrFull, limit)
	}
	var batch []record
	bytes := 0
	for _, m := range ms[:min(len(ms), room, batchRecords)] {
		r, err := encode(m)
		if err != nil && len(batch) == 0 {
			return 0, err
		}
		if bytes += r.size(); err != nil || len(batch) > 0 && bytes > batchBytes {
			break
		}
		batch = append(batch, r)
	}
	for {
		info, offset, err := b.storeUntil(ctx, name, 0, batch, time.Now().Add(b.cfg.AckTimeout))
		switch {
		case tooLarge(err) && len(batch) > 1:
			batch = batch[:len(batch)/2]
			continue
		case b.isClosed():
			return 0, broker.ErrClosed
		case errors.Is(err, broker.ErrNoTopic):
			return 0, err
		case err != nil:
			return 0, refusal(err)
		}
		b.rooms.stored(name, info.id, offset+int64(len(batch)))
		return len(batch), nil
	}
}

// rooms knows how many messages inboxes have room for. Kafka does not bound a topic by what nobody has read; so whoever sends looks
// at how far the reader is, again each time that the room it knows of is used up.
type rooms struct {
	b *Broker

	mu    sync.Mutex
	known map[string]room
}

// room of an inbox: settled is the offset up to which its reader has settled everything, end the next record's.
type room struct {
	stream       string
	settled, end int64
}

func newRooms(b *Broker) *rooms { return &rooms{b: b, known: map[string]room{}} }

// of tells how many messages the inbox takes.
func (r *rooms) of(ctx context.Context, name string, limit int) (int, error) {
	r.mu.Lock()
	known, ok := r.known[name]
	r.mu.Unlock()
	if !ok || int(known.end-known.settled) >= limit {
		var err error
		if known, err = r.look(ctx, name); err != nil {
			return 0, err
		}
	}
	return max(limit-int(known.end-known.settled), 0), nil
}

func (r *rooms) look(ctx context.Context, name string) (room, error) {
	var now room
	err := r.b.retry(ctx, func(ctx context.Context) error {
		info, err := r.b.topics.get(ctx, name)
		if err != nil {
			return err
		}
		marks, err := r.b.marks(ctx, name, info)
		if err != nil {
			return err
		}
		all, err := r.b.bounds(ctx, info)
		if err != nil {
			r.b.topics.forget(name)
			return err
		}
		now = room{stream: info.id, settled: max(marks[0].offset, all[0].first), end: all[0].end}
		return nil
	})
	if err != nil {
		return room{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known[name] = now
	return now, nil
}

// stored notes where the inbox ends now; others may have written, too.
func (r *rooms) stored(name, stream string, end int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	known, ok := r.known[name]
	if !ok || known.stream != stream || end <= known.end {
		delete(r.known, name)
		return
	}
	known.end = end
	r.known[name] = known
}

func (r *rooms) forget(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.known, name)
}
