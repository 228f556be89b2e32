package topics_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/twostep-mq/twostep/broker"
	brokermem "github.com/twostep-mq/twostep/broker/brokertest/memory"
	"github.com/twostep-mq/twostep/outbox"
	outboxmem "github.com/twostep-mq/twostep/outbox/outboxtest/memory"
	topicsmem "github.com/twostep-mq/twostep/topics/topicstest/memory"
)

// world is one schedule.
type world struct {
	counts
	rng     *rand.Rand
	now     time.Time
	trace   func(format string, args ...any)
	ctx     context.Context
	err     error
	healing bool
	// stopRate and errorRate: how often a task stops between two calls, how often a call fails.
	stopRate, errorRate float64
	// faults is how many more there will be.
	faults int

	broker    *brokermem.Server
	boxes     []*box
	registry  *topicsmem.Registry
	owners    []*ownerProc
	databases []*topicsmem.Store
	topics    []topicPlan
	subs      map[string]*subscription
	consumers []*consumerProc

	messages []*message
	byID     map[string]*message
	chains   map[chain]*message
	// orders counts commits; procs, uids make names.
	orders, procs, uids int
	planned             int
}

type topicPlan struct {
	name     string
	settings outbox.TopicSettings
	keys     []string
}

// box is an outbox with its senders and relays.
type box struct {
	name, uuid string
	store      *outboxmem.Store
	relays     []*relayProc
	senders    []*sender
	// locks: keys held by open transactions.
	locks  map[string]*sender
	leader *relayProc
	backup *outboxmem.Backup
	// backedUp tells which messages were committed by then.
	backedUp map[*message]bool
	cfg      outbox.RelayConfig
	// highest row number ever given out.
	highest int64
}

func newWorld(seed int64, trace func(string, ...any)) *world {
	rng := rand.New(rand.NewPCG(uint64(seed), 0x7457057e9))
	w := &world{
		rng: rng, now: time.Unix(1_700_000_000, 0), trace: trace, ctx: context.Background(),
		subs: map[string]*subscription{}, byID: map[string]*message{}, chains: map[chain]*message{},
		stopRate: []float64{0.02, 0.1, 0.3}[rng.IntN(3)], errorRate: []float64{0, 0.01, 0.05}[rng.IntN(3)],
		faults: 2 + rng.IntN(10), planned: 10 + rng.IntN(35),
	}
	w.broker = brokermem.New(brokermem.Config{
		Partitions: 1 + rng.IntN(2), LateAcks: rng.IntN(2) == 0, InboxMost: []int{0, 5, 50}[rng.IntN(3)],
		Now: func() time.Time { return w.now },
	})
	w.broker.OnSend = w.sendFault
	for range 1 + rng.IntN(2) {
		w.databases = append(w.databases, topicsmem.New())
	}
	for i := range 1 + rng.IntN(3) {
		w.topics = append(w.topics, topicPlan{
			name: fmt.Sprintf("topic%d", i),
			settings: outbox.TopicSettings{
				Delivery: outbox.DeliveryConfirmed, NoSubscribers: outbox.NoSubscribersHold, Keyed: rng.IntN(3) > 0,
			},
			keys: []string{"a", "b", "c", "d"}[:1+rng.IntN(4)],
		})
	}
	w.registry = topicsmem.NewRegistry(w.newUUID())
	w.startOwner()
	for i := range 1 + rng.IntN(5)/4 {
		w.addBox(i)
	}
	for range 1 + rng.IntN(3) {
		w.wantSubscription()
	}
	return w
}

func (w *world) addBox(i int) {
	b := &box{name: fmt.Sprintf("box%d", i), uuid: w.newUUID(), locks: map[string]*sender{}}
	b.store = outboxmem.New(outboxmem.Config{UUID: b.uuid, Counted: w.rng.IntN(2) == 0, GapAge: time.Second, PageBytes: []int{0, 1, 100}[w.rng.IntN(3)]})
	b.cfg = outbox.RelayConfig{
		Name: "shop", Lease: 3 * time.Second, Batch: []int{4, 10, 50}[w.rng.IntN(3)], Unanswered: []int{2, 10}[w.rng.IntN(2)],
		BatchBytes: []int{0, 1, 300}[w.rng.IntN(3)],
		Poll:       300 * time.Millisecond, Positions: 200 * time.Millisecond, PublishTimeout: 2 * time.Second,
		ResendBackoff: func(n int) time.Duration { return min(2*time.Second, 200*time.Millisecond<<min(n, 4)) },
	}
	w.boxes = append(w.boxes, b)
	for range 2 {
		w.startRelay(b)
	}
	for range 2 + w.rng.IntN(3) {
		b.senders = append(b.senders, &sender{w: w, box: b})
	}
}

// newUUID makes the same ids for the same seed.
func (w *world) newUUID() string {
	w.uids++
	return fmt.Sprintf("%08x-0000-7000-8000-%012d", w.rng.Uint32(), w.uids)
}

func (w *world) log(format string, args ...any) {
	if w.trace != nil {
		w.trace("%s "+format, append([]any{w.now.Format("05.000")}, args...)...)
	}
}

// called is a message's short name in traces.
func (w *world) called(id string) string {
	if m := w.byID[id]; m != nil {
		return fmt.Sprintf("m%d", m.n)
	}
	if id == "" {
		return "-"
	}
	return id
}

func (w *world) logSend(by, inbox string, ms []*broker.Message, err error) {
	if w.trace == nil {
		return
	}
	for _, m := range ms {
		what := m.ContentType
		if m.Outbox != "" {
			what = fmt.Sprintf("%s (prev %s)", w.called(m.ID), w.called(m.Prev))
		}
		if rc, err := outbox.DecodeReceipt(m.Payload); err == nil {
			what = "receipt"
			for _, e := range rc.Entries {
				what += fmt.Sprintf(" %s=%s", w.called(e.ID), e.Outcome)
			}
		}
		w.log("%s: sends to %s: %s: %v", by, inbox, what, err)
	}
}

// logger shows what the production code logs in the trace.
func (w *world) logger(name string) *slog.Logger {
	if w.trace == nil {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(logWriter{w, name}, &slog.HandlerOptions{
		Level: slog.LevelDebug,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey || a.Key == "stack" { // not the same for the same seed
				return slog.Attr{}
			}
			return a
		},
	}))
}

type logWriter struct {
	w    *world
	name string
}

func (l logWriter) Write(b []byte) (int, error) {
	l.w.log("    %s says %s", l.name, b[:len(b)-1])
	return len(b), nil
}

func (w *world) fail(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf(format, args...)
		w.log("VIOLATION: %v", w.err)
	}
}

// run plays the schedule: first with faults, then without.
func (w *world) run() error {
	steps := 600 + w.rng.IntN(900)
	if w.rng.IntN(2) == 0 {
		w.calm() // the registry is known to all before the first message
	}
	for range steps {
		w.step()
		if w.err != nil {
			w.bury()
			return w.err
		}
	}
	w.heal()
	w.bury()
	return w.err
}

// bury ends the goroutines that stand still.
func (w *world) bury() {
	for _, b := range w.boxes {
		for _, r := range b.relays {
			if r.busy() {
				r.kill(func() {})
			}
		}
	}
	for _, c := range w.consumers {
		if c.busy() {
			c.kill(c.release)
		}
	}
	for _, o := range w.owners {
		if o.busy() {
			o.kill(func() {})
		}
	}
}

// step does one thing.
func (w *world) step() {
	switch n := w.rng.IntN(100); {
	case n < 22:
		w.stepRelay()
	case n < 44:
		w.stepConsumer()
	case n < 56:
		w.stepSender()
	case n < 76:
		w.stepPublishing()
	case n < 81:
		w.stepOwner()
	case n < 83:
		w.stepCommand()
	case n < 95:
		w.stepTime()
	default:
		w.stepFault()
	}
}

func (w *world) stepTime() {
	if w.rng.IntN(40) == 0 {
		w.calm()
		return
	}
	d := []time.Duration{time.Millisecond, 5 * time.Millisecond, 30 * time.Millisecond, 110 * time.Millisecond, 300 * time.Millisecond, 1200 * time.Millisecond}[w.rng.IntN(6)]
	if w.rng.IntN(25) == 0 {
		d = 3500 * time.Millisecond // a lease
	}
	w.now = w.now.Add(d)
	w.log("%s pass", d)
}

// stepPublishing moves a message or an acknowledgement on the broker.
func (w *world) stepPublishing() {
	ps := w.broker.Publishing()
	if len(ps) == 0 {
		return
	}
	p := ps[w.rng.IntN(len(ps))]
	name := w.called(p.Message.ID)
	n := w.rng.IntN(100)
	switch {
	case p.Stored() && n < 88:
		w.log("broker: acknowledges %s", name)
		p.Ack()
	case p.Stored() && n < 94:
		w.log("broker: acknowledgement of %s is lost", name)
		p.Lose()
	case p.Stored():
		w.log("broker: acknowledgement of %s turns into an error", name)
		p.Fail(errHiccup)
	case n < 88:
		w.log("broker: stores %s", name)
		p.Store()
	case n < 92:
		w.log("broker: stores %s twice", name)
		p.Double()
	case n < 95:
		w.log("broker: refuses %s", name)
		p.Fail(broker.ErrFull)
	default:
		w.log("broker: %s is lost on its way", name)
		p.Lose()
	}
}

// sendFault is what goes wrong with messages to inboxes.
func (w *world) sendFault(_ string, ms []*broker.Message) brokermem.SendFault {
	if w.healing {
		return brokermem.SendFault{}
	}
	switch n := w.rng.IntN(100); {
	case n < 80:
		return brokermem.SendFault{}
	case n < 86:
		return brokermem.SendFault{Twice: true}
	case n < 94:
		return brokermem.SendFault{Err: errHiccup, Stored: w.rng.IntN(len(ms) + 1)}
	default:
		return brokermem.SendFault{Err: errHiccup}
	}
}
