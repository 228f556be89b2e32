package kafka

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/twostep-mq/twostep/broker"
)

// WatchState reads the state's topic. What it finds at first it tells once by key, in the order of the last writes; from then on
// every change. After a lost connection it goes on behind the last change it has seen; on a topic made anew it says Reset and
// starts over.
func (b *Broker) WatchState(ctx context.Context, prefix string, fn func(broker.StateEvent) error) error {
	if prefix != "" {
		if err := checkName("state prefix", strings.TrimSuffix(prefix, ".")); err != nil {
			return err
		}
	}
	w := &watch{b: b, prefix: prefix, fn: fn}
	wait := retryPause
	for ctx.Err() == nil {
		if b.isClosed() {
			return broker.ErrClosed
		}
		began := time.Now()
		err := w.run(ctx)
		if w.refused != nil {
			return w.refused
		}
		if ctx.Err() != nil {
			return nil
		}
		if b.isClosed() {
			continue
		}
		if time.Since(began) > time.Second {
			wait = retryPause
		}
		b.log.Debug("state watch starts again", "prefix", prefix, "reason", err)
		if stale(err) {
			b.renew()
		}
		pause(ctx, wait)
		wait = min(wait*2, retryPauseMax)
	}
	return nil
}

// watch is one call of WatchState.
type watch struct {
	b      *Broker
	prefix string
	fn     func(broker.StateEvent) error
	tail   tail
	// first are the last writes found before Current is said, by key.
	first   map[string]record
	current bool
	// refused is what fn returned.
	refused error
}

// run watches until something is lost.
func (w *watch) run(ctx context.Context) error {
	info, err := w.b.ensureState(ctx)
	if err != nil {
		return err
	}
	if w.tail.info.id != info.id {
		if w.tail.info.id != "" {
			if err := w.tell(broker.StateEvent{Reset: true}); err != nil {
				return err
			}
		}
		all, err := w.b.bounds(ctx, info)
		if err != nil {
			return err
		}
		w.tail = tail{b: w.b, info: info, next: all[0].first}
		w.first, w.current = map[string]record{}, false
		if all[0].first == all[0].end {
			if err := w.arrived(); err != nil {
				return err
			}
		}
	}
	for ctx.Err() == nil {
		from := w.tail.next
		records, end, err := w.tail.read(ctx)
		if err != nil {
			return err
		}
		for _, r := range records {
			if err := w.entry(r); err != nil {
				return err
			}
		}
		// Nothing came: what lay behind was compacted away.
		if !w.current && (w.tail.next >= end || w.tail.next == from) {
			if err := w.arrived(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *watch) entry(r record) error {
	key := string(r.key)
	switch {
	case !strings.HasPrefix(key, w.prefix):
		return nil
	case w.current:
		return w.tell(broker.StateEvent{Key: key, Value: r.value})
	}
	w.first[key] = r
	return nil
}

// arrived tells what was there at first, then Current.
func (w *watch) arrived() error {
	for _, r := range byOffset(w.first) {
		if r.value == nil {
			continue
		}
		if err := w.tell(broker.StateEvent{Key: string(r.key), Value: r.value}); err != nil {
			return err
		}
	}
	w.first, w.current = nil, true
	return w.tell(broker.StateEvent{Current: true})
}

func (w *watch) tell(e broker.StateEvent) error {
	if err := w.fn(e); err != nil {
		w.refused = err
		return err
	}
	return nil
}

func byOffset(entries map[string]record) []record {
	return slices.SortedFunc(maps.Values(entries), func(a, b record) int { return cmp.Compare(a.offset, b.offset) })
}
