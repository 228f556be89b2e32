package nats

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/twostep-mq/twostep/broker"
)

const (
	// watchWindow is how many entries a watch fetches ahead.
	watchWindow = 256
	// watchLife is after what silence the server removes a watch's consumer.
	watchLife = 30 * time.Second
)

// errWatchGap: the server counts more deliveries than have come.
var errWatchGap = errors.New("broker/nats: a state entry was lost on its way")

// WatchState reads the state's stream with a consumer that needs no acknowledgements. After a lost connection it goes on behind
// the last entry it has seen; on a stream made anew it says Reset and starts over.
func (b *Broker) WatchState(ctx context.Context, prefix string, fn func(broker.StateEvent) error) error {
	if prefix != "" {
		if err := checkName("state prefix", strings.TrimSuffix(prefix, ".")); err != nil {
			return err
		}
	}
	w := &watch{b: b, prefix: prefix, fn: fn}
	wait := bindPause
	for ctx.Err() == nil {
		if b.isClosed() {
			return broker.ErrClosed
		}
		seen := w.last
		err := w.run(ctx)
		switch {
		case ctx.Err() != nil && w.refused == nil:
			return nil
		case w.refused != nil:
			return w.refused
		case errors.Is(err, errNameTaken):
			return err
		}
		if w.last != seen || errors.Is(err, errReconnected) {
			wait = bindPause
		}
		b.log.Debug("state watch starts again", "prefix", prefix, "reason", err)
		pause(ctx, wait)
		wait = min(wait*2, bindPauseMax)
	}
	return nil
}

// watch is one call of WatchState.
type watch struct {
	b      *Broker
	prefix string
	fn     func(broker.StateEvent) error
	// identity of the stream, last offset seen in it, and whether Current was said.
	identity string
	last     uint64
	current  bool
	// refused is what fn returned.
	refused error
}

// run watches until the connection or the consumer is lost.
func (w *watch) run(ctx context.Context) error {
	b := w.b
	// Listen for reconnects before looking at the stream, so that none goes unnoticed.
	p := newPuller(b.nc, b.names.stateStream(), "", false, watchWindow)
	stop := b.onReconnect(func() { p.interrupt(errReconnected) })
	defer stop()
	if err := b.waitConnected(ctx, b.cfg.AckTimeout); err != nil {
		return err
	}
	stream, err := b.ensureState(ctx)
	if err != nil {
		return err
	}
	if err := w.begin(streamID(stream)); err != nil {
		return err
	}
	consumer, err := w.consumer(ctx)
	if err != nil {
		return err
	}
	defer w.remove(consumer.Name)
	p.next += consumer.Name
	if err := p.open(); err != nil {
		return err
	}
	defer p.close()
	if consumer.NumPending == 0 {
		if err := w.arrived(); err != nil {
			return err
		}
	}
	return w.follow(ctx, p, stream.State.LastSeq)
}

// begin says Reset when the stream is another one than before.
func (w *watch) begin(identity string) error {
	if w.identity == identity {
		return nil
	}
	lost := w.identity != ""
	w.identity, w.last, w.current = identity, 0, false
	if lost {
		return w.tell(broker.StateEvent{Reset: true})
	}
	return nil
}

func (w *watch) consumer(ctx context.Context) (*jetstream.ConsumerInfo, error) {
	cfg := jetstream.ConsumerConfig{
		AckPolicy:         jetstream.AckNonePolicy,
		MemoryStorage:     true,
		Replicas:          1,
		InactiveThreshold: watchLife,
		FilterSubject:     w.b.names.stateSubject(wildcard(w.prefix)),
		DeliverPolicy:     jetstream.DeliverLastPerSubjectPolicy,
	}
	if w.last > 0 {
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, w.last+1
	}
	var info *jetstream.ConsumerInfo
	err := w.b.apiOnce(ctx, func(ctx context.Context) error {
		c, err := w.b.js.CreateConsumer(ctx, w.b.names.stateStream(), cfg)
		if err == nil {
			info = c.CachedInfo()
		}
		return err
	})
	return info, err
}

// wildcard is the narrowest subject filter for a key prefix, which may end inside a token.
func wildcard(prefix string) string { return prefix[:strings.LastIndexByte(prefix, '.')+1] + ">" }

// follow tells what comes. until was the stream's last offset before the consumer was made.
func (w *watch) follow(ctx context.Context, p *puller, until uint64) error {
	var sequence uint64
	tick := time.NewTicker(pullExpires)
	defer tick.Stop()
	for ctx.Err() == nil {
		batch, _, err := p.take(watchWindow)
		if err != nil {
			return err
		}
		for _, m := range batch {
			if sequence++; m.sequence != sequence {
				return errWatchGap
			}
			if err := w.entry(m); err != nil {
				return err
			}
			if m.pending == 0 || m.offset >= until {
				if err := w.arrived(); err != nil {
					return err
				}
			}
		}
		if len(batch) > 0 {
			continue
		}
		if p.drained() { // entries may have gone since the consumer was made
			if err := w.arrived(); err != nil {
				return err
			}
		}
		select {
		case <-p.wake:
		case <-tick.C:
			p.checkSilence()
		case <-w.b.closed:
			return broker.ErrClosed
		case <-ctx.Done():
		}
	}
	return nil
}

func (w *watch) entry(m pulled) error {
	key, ok := strings.CutPrefix(m.Subject, w.b.names.stateSubject(""))
	if ok && strings.HasPrefix(key, w.prefix) {
		e := broker.StateEvent{Key: key}
		if m.Header.Get(headerOperation) != operationDelete {
			e.Value = append([]byte{}, m.Data...) // an empty value is not nil
		}
		if err := w.tell(e); err != nil {
			return err
		}
	}
	w.last = m.offset
	return nil
}

// arrived says Current, once.
func (w *watch) arrived() error {
	if w.current {
		return nil
	}
	w.current = true
	return w.tell(broker.StateEvent{Current: true})
}

func (w *watch) tell(e broker.StateEvent) error {
	if err := w.fn(e); err != nil {
		w.refused = err
		return err
	}
	return nil
}

// remove deletes the consumer, if that can be done at once; the server does it later otherwise.
func (w *watch) remove(consumer string) {
	if !w.b.nc.IsConnected() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), farewellWait)
	defer cancel()
	if err := w.b.js.DeleteConsumer(ctx, w.b.names.stateStream(), consumer); err != nil && !noConsumer(err) && !noStream(err) {
		w.b.log.Debug("state watch left its consumer behind", "error", err)
	}
}
