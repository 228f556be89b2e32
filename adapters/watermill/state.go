package watermill

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twostep-mq/twostep/broker"
)

// maxValue bounds a value of the state, in bytes.
const maxValue = 900_000

// replica is this process's copy of the state. A pub/sub keeps no last values, so the processes do: each has all of them in memory, tells
// the others what it changes, and gives a newcomer what there is (gossip.go). The state is lost when the last process ends, as on a
// broker that was wiped.
//
// What one process changes, all see in its order; that is what the registry's announcements need. Of two processes that change one key
// at once the later clock counts, everywhere.
type replica struct {
	b    *Broker
	self string
	pace pace
	// talk serialises what this process tells: its numbers go out in order.
	talk sync.Mutex

	mu      sync.Mutex
	started bool
	// current is closed when the others' state was taken in, or nobody had any.
	current chan struct{}
	// changed is closed, and made anew, with every change.
	changed chan struct{}
	entries map[string]entry
	at      int64
	clock   int64 // the highest stamp seen
	n       int64 // of what this process told last
	peers   map[string]*peer
	hello   *hello
	// asked is how often it has asked in a row, askAt when it may ask again.
	asked int
	askAt time.Time
	heard map[string]bool // newcomers that were answered
}

// entry is a value, or that there is none any more.
type entry struct {
	key     string
	value   []byte
	deleted bool
	// stamp and writer decide between two values of a key.
	stamp  int64
	writer string
	// at is when this process learned of it, in its own order.
	at int64
}

func (e entry) newer(than entry) bool {
	if e.stamp != than.stamp {
		return e.stamp > than.stamp
	}
	return e.writer > than.writer
}

func newReplica(b *Broker) *replica {
	return &replica{
		b: b, self: newPeerID(), pace: paceOf(b.cfg.StateWait), current: make(chan struct{}), changed: make(chan struct{}), entries: map[string]entry{},
		peers: map[string]*peer{}, heard: map[string]bool{},
	}
}

// apply takes an entry in if it is newer. Called with the lock held.
func (r *replica) apply(e entry) {
	r.clock = max(r.clock, e.stamp)
	if old, there := r.entries[e.key]; there && !e.newer(old) {
		return
	}
	r.at++
	e.at = r.at
	r.entries[e.key] = e
	close(r.changed)
	r.changed = make(chan struct{})
}

// since lists the entries after a point, in this process's order.
func (r *replica) since(at int64, prefix string) (es []entry, now int64, changed <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.entries {
		if e.at > at && strings.HasPrefix(e.key, prefix) {
			es = append(es, e)
		}
	}
	slices.SortFunc(es, func(a, b entry) int { return cmp.Compare(a.at, b.at) })
	return es, r.at, r.changed
}

// ready waits until this process knows the state.
func (r *replica) ready(ctx context.Context) error {
	r.start()
	select {
	case <-r.current:
		return nil
	case <-r.b.life.ctx.Done():
		return broker.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// PutState tells all processes of the value.
func (b *Broker) PutState(ctx context.Context, key string, value []byte) error {
	if len(value) > maxValue {
		return fmt.Errorf("adapters/watermill: state %s: value of %d bytes, the limit is %d", key, len(value), maxValue)
	}
	return b.state.tell(ctx, entry{key: key, value: append([]byte{}, value...)})
}

// DeleteState tells all processes that there is no value any more.
func (b *Broker) DeleteState(ctx context.Context, key string) error {
	return b.state.tell(ctx, entry{key: key, deleted: true})
}

func (r *replica) tell(ctx context.Context, e entry) error {
	if err := r.ready(ctx); err != nil {
		return fmt.Errorf("adapters/watermill: state %s: %w", e.key, err)
	}
	r.talk.Lock()
	defer r.talk.Unlock()
	r.mu.Lock()
	if _, there := r.entries[e.key]; e.deleted && !there {
		r.mu.Unlock()
		return nil
	}
	r.n++
	e.stamp, e.writer = max(time.Now().UnixNano(), r.clock+1), r.self
	r.apply(e)
	m := gossip{Kind: kindPut, Peer: r.self, N: r.n}.with(e)
	r.mu.Unlock()
	told := make(chan error, 1)
	err := r.publish(ctx, m, e.value, func(err error) { told <- err })
	if err == nil {
		select {
		case err = <-told:
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if err != nil {
		// Those that miss the number ask for what it was.
		return fmt.Errorf("adapters/watermill: state %s: %w", e.key, err)
	}
	return nil
}

// WatchState tells fn of what this process learns.
func (b *Broker) WatchState(ctx context.Context, prefix string, fn func(broker.StateEvent) error) error {
	err := b.state.ready(ctx)
	for at, told := int64(0), false; err == nil; {
		es, now, changed := b.state.since(at, prefix)
		for _, e := range es {
			if e.deleted && !told {
				continue // it was gone before
			}
			ev := broker.StateEvent{Key: e.key, Value: e.value}
			if e.deleted {
				ev.Value = nil
			}
			if err := fn(ev); err != nil {
				return err
			}
		}
		if !told {
			told = true
			if err := fn(broker.StateEvent{Current: true}); err != nil {
				return err
			}
		}
		at = now
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		case <-b.life.ctx.Done():
			return broker.ErrClosed
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// vector says how much of what each process told is in a state.
func (r *replica) vector() ([]byte, error) {
	v := map[string]int64{}
	if r.n > 0 {
		v[r.self] = r.n
	}
	for id, p := range r.peers {
		if p.seen > 0 {
			v[id] = p.seen
		}
	}
	return json.Marshal(v)
}
