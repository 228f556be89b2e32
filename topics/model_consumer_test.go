package topics_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/orchestrator/txn"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
	topicsmem "github.com/twostep-mq/twostep/topics/topicstest/memory"
)

// subscription is what the model knows of one.
type subscription struct {
	w                *world
	uid, topic, name string
	created          int64
	keyed            bool
	db               *topicsmem.Store
	shared, hold     bool
	maxAttempts      int
	failRate         float64
	// absent: none of its processes runs. removed: it was once, so nothing is promised to it any more. live: the registry has it now; one
	// that is lost with the registry comes back if an outbox had recorded it, even if it was removed.
	absent, removed, live bool
}

func (s *subscription) String() string { return s.topic + "/" + s.name }

// noticeSubscriptions takes over what the registry's store has by now.
func (w *world) noticeSubscriptions() {
	reg, err := w.registry.LoadRegistry(w.ctx)
	if err != nil {
		w.fail("registry: %v", err)
		return
	}
	for _, s := range w.subs {
		s.live = false
	}
	for _, t := range reg.Topics {
		for _, rs := range t.Subscriptions {
			s := w.subs[rs.UID]
			if s == nil {
				s = &subscription{
					w: w, uid: rs.UID, topic: rs.Topic, name: rs.Name, created: rs.Created, keyed: t.Keyed,
					db:     w.databases[w.rng.IntN(len(w.databases))],
					shared: w.rng.IntN(2) == 0, hold: t.Keyed && w.rng.IntN(3) > 0, maxAttempts: 2 + w.rng.IntN(3),
					failRate: []float64{0, 0.1, 0.3}[w.rng.IntN(3)], absent: w.rng.IntN(5) == 0,
				}
				w.subs[rs.UID] = s
				w.log("subscription %s (%s): shared %v, hold %v, attempts %d, fails %v, absent %v", s, s.uid, s.shared, s.hold, s.maxAttempts, s.failRate, s.absent)
			}
			s.live = !rs.Removed
			if rs.Removed && !s.removed {
				w.log("subscription %s is removed", s)
				s.removed = true
			}
		}
	}
}

// consumerProc is a process that runs a subscription.
type consumerProc struct {
	proc
	sub *subscription
	d   *topics.Dispatcher
	tx  topics.StoreTx // open in the database
}

func (w *world) startConsumer(s *subscription) *consumerProc {
	c := &consumerProc{proc: w.newProc(s.name), sub: s}
	c.skew = 0
	c.d = topics.NewDispatcher(topics.DispatcherConfig{
		Subscription: outbox.RegistrySubscription{UID: s.uid, Topic: s.topic, Name: s.name, Created: s.created},
		Store:        consumerStore{c}, Send: link{c.conn, &c.proc}.Send, Handler: c.handle,
		Shared: s.shared, HoldOnDead: s.hold, MaxAttempts: s.maxAttempts,
		Backoff: func(n int) time.Duration { return 100 * time.Millisecond << min(n, 4) },
		Pause:   c.pause, Now: c.now, Logger: w.logger(c.name),
	})
	w.consumers = append(w.consumers, c)
	w.log("%s: starts", c.name)
	return c
}

// pause takes no time but another process's: the world's clock moves by itself.
func (c *consumerProc) pause(ctx context.Context, _ int) error {
	c.wait("pause")
	return ctx.Err()
}

// release gives back what the death of the process frees in its database.
func (c *consumerProc) release() {
	if c.tx != nil {
		_ = c.tx.Rollback()
		c.tx = nil
	}
}

func (s *subscription) processes() []*consumerProc {
	var out []*consumerProc
	for _, c := range s.w.consumers {
		if c.sub == s && !c.dead {
			out = append(out, c)
		}
	}
	return out
}

func (w *world) stepConsumer() {
	uids := sortedKeysOf(w.subs)
	if len(uids) == 0 {
		return
	}
	s := w.subs[uids[w.rng.IntN(len(uids))]]
	if s.absent {
		return
	}
	ps := s.processes()
	if len(ps) == 0 || len(ps) < 2 && w.rng.IntN(20) == 0 {
		if s.live {
			w.startConsumer(s)
		}
		return
	}
	c := ps[w.rng.IntN(len(ps))]
	switch {
	case !c.awake():
	case c.busy():
		c.goOn()
	default:
		c.begin(w.rng.IntN(10))
	}
}

func (c *consumerProc) begin(n int) {
	switch {
	case n < 5:
		c.consume(broker.Source{Subscription: broker.SubscriptionSpec{UID: c.sub.uid, Topic: c.sub.topic, Keyed: c.sub.keyed, Since: c.sub.created}})
	case n < 7:
		c.consume(broker.Source{Inbox: outbox.SubscriptionInbox(c.sub.uid)})
	case n < 9:
		c.start("run parked", func() {
			if _, err := c.d.RunParked(c.w.ctx); err != nil {
				c.w.log("%s: run parked: %v", c.name, err)
			}
		})
	default:
		c.operate()
	}
}

// consume processes one batch, if there is one.
func (c *consumerProc) consume(src broker.Source) bool {
	w := c.w
	src.MaxBatch = 1 + w.rng.IntN(8)
	b := c.conn.Pull(src, w.rng.IntN(2))
	if b == nil {
		return false
	}
	what := "batch"
	if w.trace != nil {
		for _, d := range b.Deliveries {
			what += " " + w.called(d.ID)
			if d.Redelivered {
				what += "(again)"
			}
		}
	}
	c.start(what, func() {
		err := c.d.Process(w.ctx, b.Deliveries)
		switch {
		case err != nil:
			w.log("%s: process: %v", c.name, err)
			b.Expire()
		case !w.healing && w.rng.IntN(15) == 0:
			w.log("%s: its acknowledgement is lost", c.name)
			b.Expire()
		default:
			b.Settle()
		}
	})
	return true
}

// round is one round of a healthy subscription.
func (s *subscription) round() {
	w := s.w
	if s.absent || !s.live {
		return
	}
	ps := s.processes()
	if len(ps) == 0 {
		ps = append(ps, w.startConsumer(s))
	}
	for _, c := range ps { // the first does nearly all the work
		for _, n := range []int{0, 5, 0, 5, 7} {
			for range 30 {
				if c.busy() || !c.awake() {
					break
				}
				c.begin(n)
				c.finish()
				if n == 7 {
					break
				}
			}
		}
	}
}

// handle is the subscription's handler.
func (c *consumerProc) handle(ctx context.Context, tx outbox.Tx, d broker.Delivery) error {
	w, m := c.w, c.w.byID[d.ID]
	if m == nil || d.Topic != m.topic || d.Key != m.key || d.Outbox != m.box.uuid || d.Seq != m.seq || string(d.Payload) != fmt.Sprint("payload of ", m.n) {
		w.fail("%s got a message that nobody sent: %+v", c.sub, *d.Message)
		return nil
	}
	c.yield("handler begins")
	switch {
	case m.poison:
		switch w.rng.IntN(6) {
		case 0:
			panic("poison")
		case 1:
			return topics.Dead(errors.New("poison"))
		}
		return errors.New("poison")
	case !w.healing && w.rng.Float64() < c.sub.failRate:
		if w.rng.IntN(3) == 0 {
			return fmt.Errorf("deadlock: %w", topics.ErrTryAgain)
		}
		return errors.New("sometimes it fails")
	}
	topicsmem.OnCommit(tx, func() { w.effect(c.sub, d) })
	c.yield("handler ends")
	return ctx.Err()
}

// operate is a person who looks after dead letters.
func (c *consumerProc) operate() {
	w := c.w
	dead, err := c.sub.db.Parked(w.ctx, topics.ParkedQuery{Subscription: c.sub.uid, State: topics.ParkedDead})
	if err != nil || len(dead) == 0 {
		return
	}
	p := dead[w.rng.IntN(len(dead))]
	m := w.byID[p.Message.ID]
	q := topics.ParkedRequest{Op: topics.ParkedReplay, ID: m.id}
	switch w.rng.IntN(4) {
	case 0:
		q.Op = topics.ParkedDrop
	case 1, 2:
		m.poison = false
	}
	body, err := json.Marshal(q)
	if err != nil {
		w.fail("request: %v", err)
		return
	}
	w.replays++
	c.start(fmt.Sprintf("operator: %s m%d", q.Op, m.n), func() { c.d.Answer(w.ctx, body) })
}

// noteDead remembers dead letters.
func (s *subscription) noteDead() {
	dead, _ := s.db.Parked(s.w.ctx, topics.ParkedQuery{Subscription: s.uid, State: topics.ParkedDead, Limit: 10_000})
	for _, p := range dead {
		if m := s.w.byID[p.Message.ID]; !m.died[s.uid] {
			s.w.log("%s: m%d is dead: %s", s, m.n, p.Reason)
			m.died[s.uid] = true
			s.w.deaths++
		}
	}
}

// deadOrHeld reports whether a parked message waits for a person, by itself or behind another of its key.
func (w *world) deadOrHeld(s *subscription, m *message) bool {
	all, _ := s.db.Parked(w.ctx, topics.ParkedQuery{Subscription: s.uid, Limit: 10_000})
	dead := false
	for _, p := range all {
		if m.key != "" && p.Message.Key == m.key && p.State == topics.ParkedDead && s.hold {
			dead = true
		}
		if p.Message.ID == m.id {
			return dead || p.State == topics.ParkedDead
		}
	}
	return false
}

// consumerStore is the process's connection to its database, with stops and errors.
type consumerStore struct{ c *consumerProc }

func (s consumerStore) Begin(ctx context.Context) (topics.StoreTx, error) {
	if s.c.dead {
		return nil, errDead
	}
	s.c.yield("before Begin")
	for s.c.sub.db.Busy() {
		s.c.wait("Begin, which another transaction holds up")
	}
	if before, after := s.c.hiccup(); before || after {
		return nil, errHiccup
	}
	tx, err := s.c.sub.db.Begin(ctx)
	if err != nil {
		return nil, err
	}
	s.c.tx = tx
	return consumerTx{tx, s.c}, nil
}

func (s consumerStore) Due(ctx context.Context, uid string, now time.Time, hold bool, limit int) ([]topics.Parked, time.Time, error) {
	if s.c.dead {
		return nil, time.Time{}, errDead
	}
	due, next, err := s.c.sub.db.Due(ctx, uid, now, hold, limit)
	s.c.yield("after Due")
	return due, next, err
}

func (s consumerStore) Parked(ctx context.Context, q topics.ParkedQuery) ([]topics.Parked, error) {
	return s.c.sub.db.Parked(ctx, q)
}

type consumerTx struct {
	topics.StoreTx
	c *consumerProc
}

func (t consumerTx) do(what string) error {
	if t.c.dead {
		return errDead
	}
	t.c.yield("before " + what)
	if before, after := t.c.hiccup(); before || after {
		t.c.w.log("%s: %s fails", t.c.name, what)
		return fmt.Errorf("%w: %w", topics.ErrTryAgain, errHiccup)
	}
	return nil
}

func (t consumerTx) Claim(ctx context.Context, uid string, ids []string, as txn.Outcome) ([]txn.Outcome, error) {
	if err := t.do("Claim"); err != nil {
		return nil, err
	}
	return t.StoreTx.Claim(ctx, uid, ids, as)
}

func (t consumerTx) Claimed(ctx context.Context, uid string, ids []string) (map[string]bool, error) {
	if err := t.do("Claimed"); err != nil {
		return nil, err
	}
	return t.StoreTx.Claimed(ctx, uid, ids)
}

func (t consumerTx) Park(ctx context.Context, ps []topics.Parked) error {
	if err := t.do("Park"); err != nil {
		return err
	}
	return t.StoreTx.Park(ctx, ps)
}

func (t consumerTx) Settle(ctx context.Context, uid, id string, as txn.Outcome) error {
	if err := t.do("Settle"); err != nil {
		return err
	}
	return t.StoreTx.Settle(ctx, uid, id, as)
}

func (t consumerTx) Commit(ctx context.Context) error {
	if err := t.do("Commit"); err != nil {
		_ = t.Rollback()
		return err
	}
	_, after := t.c.hiccup()
	err := t.StoreTx.Commit(ctx)
	t.c.tx = nil
	t.c.sub.noteDead()
	t.c.yield("after Commit")
	if after && err == nil {
		t.c.w.log("%s: Commit done, and fails", t.c.name)
		return errHiccup
	}
	return err
}

func (t consumerTx) Rollback() error {
	if t.c.dead || t.c.tx == nil {
		return nil
	}
	t.c.tx = nil
	return t.StoreTx.Rollback()
}
