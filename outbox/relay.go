package outbox

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/twostep-mq/twostep/broker"
)

// RelayConfig of a Relay. The zero value works.
type RelayConfig struct {
	// Name labels the outbox in reports. Its identity is its UUID.
	Name string
	// Owner names this process in the lease; default: host, process id and a random part.
	Owner string
	// Lease is how long an owner that shows no life keeps the outbox (default 5 s); Beat is how often it shows life (1.5 s).
	Lease, Beat time.Duration
	// Poll is how often the table is looked at without a ring of the doorbell (1 s).
	Poll time.Duration
	// Batch bounds what another relay might have to publish twice: messages in flight and acknowledged ones that no checkpoint
	// holds yet (2,000).
	Batch int
	// BatchBytes bounds the payloads the relay holds, in bytes; a page (PageBytes) may come on top. 0: 32 MiB.
	BatchBytes int
	// Linger is how long confirmations are gathered before they are written (100 ms), unless half a batch comes together first.
	Linger time.Duration
	// Positions is how often the broker is asked how far subscriptions are while rows wait for them (1 s).
	Positions time.Duration
	// Unanswered bounds what is sent again to one subscription at a time (1,000).
	Unanswered int
	// ResendBackoff before a row is sent again the n-th time; default: 1 s, doubled, at most 30 s.
	ResendBackoff func(n int) time.Duration
	// PublishTimeout is how long an acknowledgement is waited for before the row is published again (15 s).
	PublishTimeout time.Duration
	// ReportEvery bounds how often the relay reports while things change (1 s); unchanged, it reports every 15 s.
	ReportEvery time.Duration
	// Now is the clock; nil: time.Now.
	Now    func() time.Time
	Logger *slog.Logger
}

func (c RelayConfig) withDefaults() RelayConfig {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&c.Lease, 5*time.Second)
	def(&c.Beat, c.Lease*3/10)
	def(&c.Poll, time.Second)
	def(&c.Linger, 100*time.Millisecond)
	def(&c.Positions, time.Second)
	def(&c.PublishTimeout, 15*time.Second)
	def(&c.ReportEvery, time.Second)
	if c.Batch == 0 {
		c.Batch = 2000
	}
	if c.BatchBytes == 0 {
		c.BatchBytes = 32 << 20
	}
	if c.Unanswered == 0 {
		c.Unanswered = 1000
	}
	if c.ResendBackoff == nil {
		c.ResendBackoff = func(n int) time.Duration { return min(30*time.Second, time.Second<<min(n-1, 10)) }
	}
	if c.Owner == "" {
		host, _ := os.Hostname()
		c.Owner = host + "/" + strconv.Itoa(os.Getpid()) + "/" + uuid.NewString()[:8]
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Relay carries the rows of one outbox to their topics and releases them. Many may run for one outbox; the lease lets one
// of them work. All its state is touched by Step alone, which Run calls; what comes from the broker waits in queue until
// then. So a relay is a deterministic function of its stores and of the order of events, and the simulation drives it as such.
type Relay struct {
	store  RelayStore
	broker broker.Broker
	cfg    RelayConfig
	log    *slog.Logger
	queue  queue

	// lease is ours if lease.Owner is cfg.Owner. seen is the last foreign one and seenAt when it last changed, by our clock.
	lease, seen    Lease
	leaseAt        time.Time
	seenAt, lookAt time.Time

	// view is the registry as the broker announces it.
	view registryView
	// mem is what is known of the outbox; nil: to be loaded.
	mem *memory
	// generation tells acknowledgements for this memory from those for one thrown away.
	generation int64
	released   int64
}

// NewRelay makes a relay for the outbox in store.
func NewRelay(store RelayStore, b broker.Broker, cfg RelayConfig) *Relay {
	cfg = cfg.withDefaults()
	return &Relay{
		store: store, broker: b, cfg: cfg, log: cfg.Logger,
		queue: queue{wake: make(chan struct{}, 1)}, view: newRegistryView(),
	}
}

// Leads reports whether this relay held the lease at its last step. It may be called from the goroutine that calls Step.
func (r *Relay) Leads() bool { return r.lease.Owner == r.cfg.Owner && r.lease.Owner != "" }

// Ring wakes the relay; name is ignored. It makes a Relay a Doorbell for an Outbox in the same process.
func (r *Relay) Ring(context.Context, string) error {
	r.queue.ring()
	return nil
}

// Offer hands deliveries of the outbox's inbox to the relay; settled is called once, with nil when what they say is durable. Run
// does this; a caller of Step does it instead.
func (r *Relay) Offer(ds []broker.Delivery, settled func(error)) {
	r.queue.push(func(q *events) { q.inbox = append(q.inbox, inboxBatch{ds, settled}) })
}

// Announce hands a change of the broker's state to the relay. Run does this; a caller of Step does it instead.
func (r *Relay) Announce(ev broker.StateEvent) {
	r.queue.push(func(q *events) { q.state = append(q.state, ev) })
}

// queue holds what arrived since the last step. It may be filled from any goroutine.
type queue struct {
	mu   sync.Mutex
	ev   events
	wake chan struct{}
	// eager: the relay waits for each acknowledgement. soon: a timer runs that wakes for those that came.
	eager, soon bool
}

const (
	// ackGroup acknowledgements wake the relay, or the first of fewer after ackSoon. One wake-up for each costs more than all the
	// rest that is done for a row.
	ackGroup = 128
	ackSoon  = time.Millisecond
)

type events struct {
	rung  bool
	acks  []ack
	inbox []inboxBatch
	state []broker.StateEvent
	calls []func()
}

// ack is the broker's answer to one published row.
type ack struct {
	generation, seq int64
	topic           int32
	at              broker.Position
	err             error
}

type inboxBatch struct {
	ds      []broker.Delivery
	settled func(error)
}

func (q *queue) push(f func(*events)) {
	q.mu.Lock()
	f(&q.ev)
	q.mu.Unlock()
	q.signal()
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// pushAck is push for acknowledgements: most can wait for others.
func (q *queue) pushAck(a ack) {
	q.mu.Lock()
	q.ev.acks = append(q.ev.acks, a)
	now := q.eager || a.err != nil || len(q.ev.acks) >= ackGroup
	later := !now && !q.soon
	q.soon = q.soon || later
	q.mu.Unlock()
	switch {
	case now:
		q.signal()
	case later:
		time.AfterFunc(ackSoon, func() {
			q.mu.Lock()
			q.soon = false
			q.mu.Unlock()
			q.signal()
		})
	}
}

// want says whether the relay waits for each acknowledgement.
func (q *queue) want(each bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.eager = each
}

func (q *queue) ring() { q.push(func(ev *events) { ev.rung = true }) }

func (q *queue) take() events {
	q.mu.Lock()
	defer q.mu.Unlock()
	ev := q.ev
	q.ev = events{}
	if n := len(ev.acks); n > 0 {
		q.ev.acks = make([]ack, 0, n)
	}
	return ev
}

// errNotLeading answers inbox batches that reach a relay without the lease: the broker gives them to its successor.
var errNotLeading = errors.New("outbox: this relay does not hold the lease")

// rang tells whether the bell was rung since the last step, without taking it.
func (q *queue) rang() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.ev.rung
}
