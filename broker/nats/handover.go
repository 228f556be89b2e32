package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// How pinned readers follow each other. JetStream keeps what a reader had until the acknowledgement wait is over, and gives
// newer messages to the next reader meanwhile: out of order. So the next one sets the consumer back to its floor, the
// first message that is not settled, and knows by the offsets which messages the one before may have seen.

// takeOver is called when the server has chosen this reader, before anything is handled.
func (r *reader) takeOver(ctx context.Context) error {
	if err := r.confirm(ctx); err != nil {
		return err
	}
	first, there := r.puller.first()
	if !there {
		return nil
	}
	var info *jetstream.ConsumerInfo
	err := r.b.apiOnce(ctx, func(ctx context.Context) error {
		c, err := r.b.js.Consumer(ctx, r.stream, r.consumer)
		if err == nil {
			info = c.CachedInfo()
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("broker/nats: take over %s: %w", r.name, err)
	}
	suspect := first.offset
	if first.times > 1 {
		suspect = info.Delivered.Stream + 1
	} else if first.offset == info.AckFloor.Stream+1 {
		return nil // nothing before it is unsettled
	}
	dropped := r.puller.close()
	if err := r.reset(ctx); err != nil {
		r.b.log.Warn("reader cannot set the consumer back, what the one before had comes later", "source", r.name, "error", err)
		r.again(dropped)
	} else {
		r.suspect = max(r.suspect, suspect)
	}
	return r.puller.open()
}

// reset sets the consumer back to its floor. Servers before 2.14 cannot.
func (r *reader) reset(ctx context.Context) error {
	return r.b.apiOnce(ctx, func(ctx context.Context) error {
		_, err := r.b.js.ResetConsumer(ctx, r.stream, r.consumer)
		return err
	})
}

// again asks the broker to deliver messages again, at once.
func (r *reader) again(ms []pulled) {
	for _, m := range ms {
		if r.b.nc.Publish(m.Reply, ackAgain) != nil {
			return // closed: the acknowledgement wait does it
		}
	}
}

// confirm waits until the server has seen all acknowledgements: they are handled in order.
func (r *reader) confirm(ctx context.Context) error {
	if r.lastAck == "" {
		return nil
	}
	err := r.b.apiOnce(ctx, func(ctx context.Context) error {
		_, err := r.b.nc.RequestWithContext(ctx, r.lastAck, ackDone)
		return err
	})
	if err != nil {
		return fmt.Errorf("broker/nats: acknowledge %s: %w", r.name, err)
	}
	r.lastAck = ""
	return nil
}

// leave gives back what the reader has, so that others need not wait. reason is what run returned: after a clean end nothing was
// left half-done, and what was only fetched ahead is not to look suspect to the next reader.
func (r *reader) leave(ctx context.Context, reason error) {
	wasPinned := r.puller.isPinned()
	queued := r.puller.close()
	if !r.b.nc.IsConnected() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewellWait)
	defer cancel()
	r.mu.Lock()
	held := r.held
	r.mu.Unlock()
	clean := reason == nil && len(held) == 0
	switch {
	case clean && wasPinned:
		err := r.confirm(ctx)
		if err == nil {
			err = r.reset(ctx)
		}
		if err != nil {
			r.again(queued)
		}
	case errors.Is(reason, errReconnected), errors.Is(reason, errReaderGone):
		// The reply subjects may belong to a stream that is gone.
	default:
		for _, reply := range held {
			if r.b.nc.Publish(reply, ackAgain) != nil {
				return
			}
		}
		r.again(queued)
	}
	if wasPinned {
		if err := r.unpin(ctx); err != nil {
			r.b.log.Debug("reader did not give its place away", "source", r.name, "error", err)
		}
	}
}

// unpin lets the server choose another reader.
func (r *reader) unpin(ctx context.Context) error {
	body, err := json.Marshal(map[string]string{"group": pinGroup})
	if err != nil {
		return err
	}
	return r.b.apiOnce(ctx, func(ctx context.Context) error {
		_, err := r.b.nc.RequestWithContext(ctx, "$JS.API.CONSUMER.UNPIN."+r.stream+"."+r.consumer, body)
		return err
	})
}
