package nats

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twostep-mq/twostep/broker"
)

// errHandedBack: the handler failed too often, or was ended: its messages went back to the broker.
var errHandedBack = errors.New("broker/nats: messages handed back")

const (
	// inPlace is how often a failing handler gets its batch again before it is handed back, after retryPause, doubled each time.
	inPlace    = 6
	retryPause = 50 * time.Millisecond
	// farewellWait bounds what a reader does on leaving.
	farewellWait = 2 * time.Second
)

// Bodies of acknowledgements (ADR-15).
var (
	ackDone     = []byte("+ACK")
	ackAgain    = []byte("-NAK")
	ackProgress = []byte("+WPI")
)

// reader reads one consumer on one incarnation of its stream, until the connection is lost or the consumer is gone.
type reader struct {
	b        *Broker
	topic    string // empty for an inbox
	name     string
	batch    int
	pinned   bool
	stream   string
	identity string // of the stream
	consumer string
	made     time.Time // the consumer
	puller   *puller

	// suspect: messages below this offset were delivered to the reader before this one.
	suspect uint64
	// lastAck is the reply subject of the last message acknowledged.
	lastAck   string
	delivered bool

	mu sync.Mutex
	// held are the reply subjects of the messages in the handler.
	held []string
}

// run reads until ctx ends (nil) or the reader has to be made anew.
func (r *reader) run(ctx context.Context, handle func(context.Context, []broker.Delivery) error) error {
	stop := r.b.onReconnect(func() { r.puller.interrupt(errReconnected) })
	defer stop()
	if err := r.puller.open(); err != nil {
		return err
	}
	beating, end := context.WithCancel(context.Background())
	var beat sync.WaitGroup
	beat.Go(func() { r.beat(beating) })
	defer beat.Wait()
	defer end()
	for ctx.Err() == nil {
		batch, fresh, err := r.puller.take(r.batch)
		switch {
		case errors.Is(err, errReconnected) && !r.pinned:
			// What was queued is still ours.
			err = r.resume(ctx)
		case err != nil:
		case fresh:
			err = r.takeOver(ctx)
		case len(batch) > 0:
			err = r.settle(ctx, batch, handle)
		default:
			select {
			case <-r.puller.wake:
			case <-ctx.Done():
			case <-r.b.closed:
				err = broker.ErrClosed
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// settle gives a batch to the handler until it succeeds, and acknowledges it.
func (r *reader) settle(ctx context.Context, batch []pulled, handle func(context.Context, []broker.Delivery) error) error {
	r.delivered = true
	r.hold(batch)
	wait := retryPause
	for try := 1; ; try++ {
		err := handle(ctx, r.deliveries(batch, try > 1))
		if err == nil {
			break
		}
		r.b.log.Warn("handler failed", "source", r.name, "messages", len(batch), "try", try, "error", err)
		if try == inPlace || !pause(ctx, wait) {
			return errHandedBack
		}
		wait *= 2
		if broken := r.puller.failure(); broken != nil && (r.pinned || !errors.Is(broken, errReconnected)) {
			r.hold(nil)
			return broken // the messages come again
		}
	}
	if errors.Is(r.puller.failure(), errReconnected) {
		// Acknowledgements of a stream that is gone could settle messages of the one made after it.
		if same, err := r.same(ctx); err != nil || !same {
			r.hold(nil)
			return errReconnected
		}
	}
	return r.acknowledge(batch)
}

// acknowledge does not wait for the server: what gets lost comes again.
func (r *reader) acknowledge(batch []pulled) error {
	defer r.hold(nil)
	for _, m := range batch {
		if err := r.b.nc.Publish(m.Reply, ackDone); err != nil {
			return connError(err)
		}
	}
	r.lastAck = batch[len(batch)-1].Reply
	return nil
}

func (r *reader) deliveries(batch []pulled, again bool) []broker.Delivery {
	ds := make([]broker.Delivery, len(batch))
	for i, m := range batch {
		at := broker.Position{Stream: r.identity, Offset: m.offset}
		ds[i] = broker.Delivery{
			Message:     decode(m.Header, m.Data, r.topic, at, m.stored),
			Position:    at,
			Redelivered: again || m.times > 1 || m.offset < r.suspect,
			Stored:      m.stored,
		}
	}
	return ds
}

func (r *reader) hold(batch []pulled) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held = r.held[:0]
	for _, m := range batch {
		r.held = append(r.held, m.Reply)
	}
}

// holding lists the reply subjects of all messages that this reader has, in order.
func (r *reader) holding() []string {
	r.mu.Lock()
	all := append([]string(nil), r.held...)
	r.mu.Unlock()
	return r.puller.replies(all)
}

// beat keeps the messages and the pin of this reader alive.
func (r *reader) beat(ctx context.Context) {
	every := r.b.cfg.AckWait / 4
	tick := every
	if r.pinned {
		tick = min(tick, r.b.cfg.PinTTL/5)
	}
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	last := time.Now()
	for {
		select {
		case now := <-ticker.C:
			r.puller.checkSilence()
			if !r.b.nc.IsConnected() {
				continue
			}
			r.puller.keepPin()
			if now.Sub(last) < every {
				continue
			}
			last = now
			for _, reply := range r.holding() {
				if err := r.b.nc.Publish(reply, ackProgress); err != nil {
					break // closed: run sees it, too
				}
			}
		case <-ctx.Done():
			return
		}
	}
}

// same reports whether stream and consumer are those that this reader began with. It waits for the connection.
func (r *reader) same(ctx context.Context) (bool, error) {
	for wait := bindPause; ; wait = min(2*wait, bindPauseMax) {
		stream, consumer, err := r.look(ctx)
		switch {
		case err == nil:
			return stream == r.identity && consumer.Equal(r.made), nil
		case noStream(err), noConsumer(err):
			return false, nil
		case ctx.Err() != nil, r.b.isClosed():
			return false, err
		}
		pause(ctx, wait)
	}
}

func (r *reader) look(ctx context.Context) (stream string, consumer time.Time, err error) {
	err = r.b.api(ctx, func(ctx context.Context) error {
		s, err := r.b.js.Stream(ctx, r.stream)
		if err != nil {
			return err
		}
		c, err := s.Consumer(ctx, r.consumer)
		if err != nil {
			return err
		}
		stream, consumer = streamID(s.CachedInfo()), c.CachedInfo().Created
		return nil
	})
	return stream, consumer, err
}

// resume goes on after a lost connection if everything is still there.
func (r *reader) resume(ctx context.Context) error {
	same, err := r.same(ctx)
	if err != nil {
		return err
	}
	if !same {
		return fmt.Errorf("%w after a lost connection", errReaderGone)
	}
	return r.puller.resume()
}
