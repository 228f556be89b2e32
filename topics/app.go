package topics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/twostep-mq/twostep/broker"
)

// Declare says who makes topics and subscriptions.
type Declare string

const (
	// DeclareOn: running a handler makes its topic and subscription if they are not there. The default.
	DeclareOn Declare = "on"
	// DeclareOff: they are made beforehand (twostep topics create, subscribe); a missing one is an error.
	DeclareOff Declare = "off"
)

var (
	// ErrUnknownTopic: the registry has no such topic.
	ErrUnknownTopic = errors.New("topics: unknown topic")
	// ErrUnknownSubscription: the topic has no such subscription.
	ErrUnknownSubscription = errors.New("topics: unknown subscription")
)

// registryPrefix is what an App watches of the broker's state.
const registryPrefix = "registry."

// AppConfig configures an App. The zero value works.
type AppConfig struct {
	// Name of the service, for logs.
	Name string
	// Declare: on (default) or off.
	Declare Declare
	// DrainTimeout is how long running handlers may go on after Run's context ended; default 10 s. Then their contexts end, and what
	// they did is rolled back and done again later.
	DrainTimeout time.Duration
	// RegistryTimeout is how long a service with declare off waits for a registry to appear at all; default 10 s.
	RegistryTimeout time.Duration
	Logger          *slog.Logger
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

func (c AppConfig) withDefaults() AppConfig {
	if c.Declare == "" {
		c.Declare = DeclareOn
	}
	if c.DrainTimeout <= 0 {
		c.DrainTimeout = 10 * time.Second
	}
	if c.RegistryTimeout <= 0 {
		c.RegistryTimeout = 10 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// App runs the handlers of one process on one database. Handlers are added with Topic.Handle before Run.
type App struct {
	b     broker.Broker
	store Store
	cfg   AppConfig
	log   *slog.Logger
	view  *registryView

	mu        sync.Mutex
	handlings []*handling
	errs      []error
	started   bool
	unready   int
	ready     chan struct{} // closed when every handling is in the registry and read
	ended     chan struct{} // closed when Run returns, with err
	err       error
}

// NewApp makes an App that reads from b and executes on store.
func NewApp(b broker.Broker, store Store, cfg AppConfig) *App {
	cfg = cfg.withDefaults()
	log := cfg.Logger
	if cfg.Name != "" {
		log = log.With("service", cfg.Name)
	}
	return &App{b: b, store: store, cfg: cfg, log: log, view: newRegistryView(log), ready: make(chan struct{}), ended: make(chan struct{})}
}

// register notes a handler; what is wrong with it is returned by Run.
func (a *App) register(h *handling) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.started {
		a.errs = append(a.errs, fmt.Errorf("topics: %s was added after Run had begun: add handlers before", h.name()))
		a.log.Error("handler added after Run had begun: it is ignored", "name", h.name())
		return
	}
	if err := h.check(); err != nil {
		a.errs = append(a.errs, err)
		return
	}
	for _, other := range a.handlings {
		if other.topic == h.topic && other.subscription == h.subscription && other.topicOnly == h.topicOnly {
			if !h.topicOnly {
				a.errs = append(a.errs, fmt.Errorf("%w: %s has two handlers in one App: give one of them another subscription", ErrInvalid, h.name()))
			}
			return
		}
	}
	a.handlings = append(a.handlings, h)
}

// Run declares the topics and subscriptions and runs their handlers until ctx ends; then it drains: nothing new is read, what runs
// may end within DrainTimeout. It returns nil after a drain, and an error for what no waiting mends.
func (a *App) Run(ctx context.Context) (err error) {
	handlings, err := a.begin()
	if err != nil {
		return err
	}
	defer func() {
		a.err = err
		close(a.ended)
	}()
	parts, ctx := errgroup.WithContext(ctx)
	parts.Go(func() error {
		if err := a.b.WatchState(ctx, registryPrefix, a.view.onState); err != nil && ctx.Err() == nil {
			return fmt.Errorf("topics: watch the registry: %w", err)
		}
		return nil
	})
	if a.cfg.Declare == DeclareOff {
		parts.Go(func() error {
			if a.view.waitComplete(ctx) {
				a.oneReady()
			}
			return nil
		})
	}
	for _, h := range handlings {
		parts.Go(func() error { return a.serve(ctx, h) })
	}
	return parts.Wait()
}

func (a *App) begin() ([]*handling, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.started {
		return nil, errors.New("topics: Run was called twice: make another App")
	}
	a.started = true
	err := errors.Join(a.errs...)
	if a.cfg.Declare != DeclareOn && a.cfg.Declare != DeclareOff {
		err = errors.Join(err, fmt.Errorf("%w: declare %q: use on or off", ErrInvalid, a.cfg.Declare))
	}
	if err != nil {
		a.err = err
		close(a.ended)
		return nil, err
	}
	a.unready = len(a.handlings)
	if a.cfg.Declare == DeclareOff {
		a.unready++ // the registry itself; see Known
	}
	if a.unready == 0 {
		close(a.ready)
	}
	return a.handlings, nil
}

// Ready waits until every handler's subscription is in the registry and, where declare is off, until the registry was read: every message
// committed from now on that its relay knows of the subscription for will be executed. It returns Run's error if that ends first.
func (a *App) Ready(ctx context.Context) error {
	select {
	case <-a.ready:
		return nil
	case <-a.ended:
		if a.err != nil {
			return a.err
		}
		return errors.New("topics: the App was stopped before it was ready")
	case <-ctx.Done():
		return fmt.Errorf("topics: not ready (is a server running that owns the registry?): %w", ctx.Err())
	}
}

// Known reports whether the registry has the topic; it is what outbox.Config.Known wants where declare is off. What the registry has not
// said counts as known until it has been read (after Ready it has): absence means nothing before, and publishing must not wait for the
// broker. A row of a topic that nobody makes is held by its relay.
func (a *App) Known(topic string) bool {
	l := a.view.look(topic, "")
	return l.topicKnown || !l.complete && l.topic.Name == ""
}

func (a *App) oneReady() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.unready--; a.unready == 0 {
		close(a.ready)
	}
}
