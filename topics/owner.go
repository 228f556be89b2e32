package topics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/outbox"
)

var (
	// ErrTopicExists: the topic is there with other settings.
	ErrTopicExists = errors.New("topics: the topic exists with other settings")
	// ErrInFlight: messages of the topic are not released yet.
	ErrInFlight = errors.New("topics: messages are in flight")
	// ErrUnknownOutbox: no relay ever reported for this outbox.
	ErrUnknownOutbox = errors.New("topics: unknown outbox")
	// ErrNotRunning: the owner has not yet read the broker's state.
	ErrNotRunning = errors.New("topics: the registry's owner has not read the broker's state yet: try again in a moment")
)

const (
	// ownerRetry bounds the pause before what could not be finished is tried again.
	ownerRetryFirst = 100 * time.Millisecond
	ownerRetryMax   = 5 * time.Second
	// conflictTries is how often a change is made again because another process changed the registry meanwhile.
	conflictTries = 10
)

// OwnerConfig configures an Owner. The zero value works.
type OwnerConfig struct {
	Logger *slog.Logger
	// Now is the clock; nil: time.Now.
	Now func() time.Time
	// NewUID makes a subscription's uid; nil: a random UUID. A uid is never used again.
	NewUID func() string
}

// Owner owns the registry: it makes topics and subscriptions, on the broker first, keeps them in its store, and announces them as
// the broker's state. Relays' reports and services' declarations reach it as state too, so it may be down for as long as
// nothing changes. Its methods may be called from any goroutine while Run runs.
type Owner struct {
	store RegistryStore
	b     broker.Broker
	cfg   OwnerConfig
	log   *slog.Logger
	// work serialises what changes the registry; it is held over calls to the store and the broker.
	work sync.Mutex
	// retry wakes Run's retries early.
	retry chan struct{}

	// mu guards what follows; it is never held over a call.
	mu     sync.Mutex
	loaded bool
	reg    registry
	heard  heard
	todo   todo
}

// registry is the content of the store.
type registry struct {
	owner    string
	version  int64
	topics   map[string]outbox.RegistryTopic
	outboxes map[string]RegistryOutbox
}

// todo is what is decided or asked for and not finished. Nothing leaves it before it is done.
type todo struct {
	// takeover: the state was read from the beginning, at the start or after it was lost: make everything on the broker, announce
	// everything, above every version seen.
	takeover bool
	// reports (by outbox UUID), topics (as others announced them) and declarations (by key) to take in.
	reports      map[string]outbox.Report
	topics       map[string]outbox.RegistryTopic
	declarations map[string]Declaration
	// ensure and announce are topics to make on the broker and to announce; head: to announce, too.
	ensure, announce map[string]bool
	head             bool
	// remove are subscriptions whose readers and inboxes go unless the registry has them; drop are topics that go.
	remove map[string]outbox.RegistrySubscription
	drop   map[string]bool
}

func newTodo() todo {
	return todo{
		reports: map[string]outbox.Report{}, topics: map[string]outbox.RegistryTopic{}, declarations: map[string]Declaration{},
		ensure: map[string]bool{}, announce: map[string]bool{}, remove: map[string]outbox.RegistrySubscription{}, drop: map[string]bool{},
	}
}

// NewOwner makes the owner of the registry in store, which announces on b.
func NewOwner(store RegistryStore, b broker.Broker, cfg OwnerConfig) *Owner {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.NewUID == nil {
		cfg.NewUID = uuid.NewString
	}
	return &Owner{store: store, b: b, cfg: cfg, log: cfg.Logger, retry: make(chan struct{}, 1), heard: newHeard(), todo: newTodo()}
}

// Run watches the broker's state and keeps the registry announced until ctx ends; then it returns nil.
func (o *Owner) Run(ctx context.Context) error {
	var retries sync.WaitGroup
	retries.Go(func() { o.retryUntil(ctx) })
	defer retries.Wait()
	err := o.b.WatchState(ctx, "", func(ev broker.StateEvent) error {
		if err := o.onState(ctx, ev); err != nil && ctx.Err() == nil {
			o.log.Warn("registry: not finished, it is tried again", "error", err)
			o.retrySoon()
		}
		return nil
	})
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("topics: watch the broker's state: %w", err)
	}
	<-ctx.Done()
	return nil
}

func (o *Owner) retrySoon() {
	select {
	case o.retry <- struct{}{}:
	default:
	}
}

// retryUntil finishes what could not be finished when it was asked for.
func (o *Owner) retryUntil(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-o.retry:
		}
		for try := 1; ctx.Err() == nil; try++ {
			t := time.NewTimer(jittered(ownerRetryFirst, ownerRetryMax, try))
			select {
			case <-ctx.Done():
			case <-t.C:
			}
			t.Stop()
			err := o.settle(ctx)
			if err == nil {
				break
			}
			if ctx.Err() == nil {
				o.log.Warn("registry: not finished, it is tried again", "try", try, "error", err)
			}
		}
	}
}

// onState takes in one event of the broker's state and does what follows from it. On an error what is left to do stays noted, and the
// next call goes on with it.
func (o *Owner) onState(ctx context.Context, ev broker.StateEvent) error {
	if !o.hear(ev) {
		return nil
	}
	return o.settle(ctx)
}

// settle does everything that is noted to be done.
func (o *Owner) settle(ctx context.Context) error {
	o.work.Lock()
	defer o.work.Unlock()
	return o.settleLocked(ctx)
}

// settleLocked is settle for who holds work. The order matters: reports before declarations, so that a subscription that only an
// outbox remembers is not made a second time; the broker before the announcement.
func (o *Owner) settleLocked(ctx context.Context) error {
	if !o.readable() {
		return nil
	}
	return o.retryConflicts(ctx, func() error {
		if err := o.load(ctx); err != nil {
			return err
		}
		if err := o.takeIn(ctx); err != nil {
			return err
		}
		err := o.handleDeclarations(ctx)
		if !o.knowsStore() {
			return err // no announcing of what may be outdated
		}
		return errors.Join(err, o.makeOnBroker(ctx), o.announce(ctx), o.removeFromBroker(ctx))
	})
}

// readable reports whether the state was read to its end: before that nobody knows which versions were announced.
func (o *Owner) readable() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.heard.current
}

func (o *Owner) retryConflicts(ctx context.Context, fn func() error) error {
	for try := 1; ; try++ {
		err := fn()
		if err == nil || !errors.Is(err, ErrConflict) || try == conflictTries || ctx.Err() != nil {
			return err
		}
	}
}

// load reads the store when it was never read, or when somebody else changed it, or when it is not known whether a change was stored.
func (o *Owner) load(ctx context.Context) error {
	if o.knowsStore() {
		return nil
	}
	r, err := o.store.LoadRegistry(ctx)
	if err != nil {
		return fmt.Errorf("topics: load the registry: %w", err)
	}
	reg := registry{owner: r.Owner, version: r.Version, topics: map[string]outbox.RegistryTopic{}, outboxes: map[string]RegistryOutbox{}}
	for _, t := range r.Topics {
		reg.topics[t.Name] = t
	}
	for _, b := range r.Outboxes {
		reg.outboxes[b.UUID] = b
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for name, t := range reg.topics {
		// What another process of the same store has changed is announced from here, too.
		if o.reg.topics != nil && o.reg.topics[name].Version != t.Version {
			o.todo.announce[name], o.todo.head = true, true
		}
	}
	o.reg, o.loaded = reg, true
	return nil
}

// knowsStore reports whether what is in memory is what is stored.
func (o *Owner) knowsStore() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.loaded
}

// change stores topics and outboxes as given under the next version and notes what there is to announce. Callers hold work.
func (o *Owner) change(ctx context.Context, topics []outbox.RegistryTopic, outboxes []RegistryOutbox) error {
	o.mu.Lock()
	from := o.reg.version
	c := RegistryChange{Version: max(from, o.heard.highest()) + 1, Outboxes: outboxes}
	o.mu.Unlock()
	for _, t := range topics {
		t.Version = c.Version
		c.Topics = append(c.Topics, t)
	}
	err := o.store.ApplyRegistry(ctx, from, c)
	o.mu.Lock()
	defer o.mu.Unlock()
	if err != nil {
		o.loaded = false
		return fmt.Errorf("topics: store the registry: %w", err)
	}
	o.reg.version = c.Version
	for _, t := range c.Topics {
		o.reg.topics[t.Name] = t
		o.todo.announce[t.Name] = true
	}
	for _, b := range c.Outboxes {
		o.reg.outboxes[b.UUID] = b
	}
	o.todo.head = true
	return nil
}

// topic returns a copy of a topic that may be changed.
func (o *Owner) topic(name string) (outbox.RegistryTopic, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	t, ok := o.reg.topics[name]
	t.Subscriptions = slices.Clone(t.Subscriptions)
	return t, ok
}

// sortedKeys makes what is done for a map's entries the same every time.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
