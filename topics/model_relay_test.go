package topics_test

import (
	"context"

	"github.com/twostep-mq/twostep/broker"
	brokermem "github.com/twostep-mq/twostep/broker/brokertest/memory"
	"github.com/twostep-mq/twostep/outbox"
)

// relayProc is a process that runs an outbox.Relay: what Relay.Run does with goroutines, it does in steps.
type relayProc struct {
	proc
	box   *box
	relay *outbox.Relay
	state *brokermem.Watcher
	inbox *brokermem.Batch
}

func (w *world) startRelay(b *box) {
	r := &relayProc{proc: w.newProc(b.name + ".relay"), box: b}
	cfg := b.cfg
	cfg.Owner, cfg.Now, cfg.Logger = r.name, r.now, w.logger(r.name)
	r.relay = outbox.NewRelay(relayStore{r}, link{r.conn, &r.proc}, cfg)
	r.state = r.conn.Watch("registry.")
	_ = r.conn.EnsureInbox(w.ctx, outbox.Inbox(b.uuid))
	b.relays = append(b.relays, r)
	w.log("%s: starts", r.name)
}

func (b *box) ring() {
	for _, r := range b.relays {
		_ = r.relay.Ring(context.Background(), "")
	}
}

func (w *world) stepRelay() {
	b := w.boxes[w.rng.IntN(len(w.boxes))]
	r := b.relays[w.rng.IntN(len(b.relays))]
	if r.dead {
		r = b.relays[len(b.relays)-1]
	}
	if !r.awake() {
		return
	}
	switch n := w.rng.IntN(10); {
	case n < 2:
		r.hear()
	case n < 4:
		r.read()
	case r.busy():
		r.goOn()
	default:
		r.begin()
	}
}

func (r *relayProc) begin() {
	r.start("step", func() {
		if _, err := r.relay.Step(r.w.ctx); err != nil {
			r.w.log("%s: step: %v", r.name, err)
		}
	})
}

// hear takes one event of the registry from the broker.
func (r *relayProc) hear() bool {
	ev, ok := r.state.Next()
	if ok {
		r.w.log("%s: hears %s%s", r.name, ev.Key, map[bool]string{true: "reset"}[ev.Reset])
		r.relay.Announce(ev)
	}
	return ok
}

// read takes receipts, as Run's reader does while the relay leads.
func (r *relayProc) read() {
	if !r.relay.Leads() || r.inbox != nil {
		return
	}
	src := broker.Source{Inbox: outbox.Inbox(r.box.uuid), MaxBatch: 1 + r.w.rng.IntN(10)}
	b := r.conn.Pull(src, 0)
	if b == nil {
		return
	}
	r.inbox = b
	r.w.log("%s: gets %d receipts", r.name, len(b.Deliveries))
	r.relay.Offer(b.Deliveries, func(err error) {
		r.inbox = nil
		if err != nil || !r.w.healing && r.w.rng.IntN(20) == 0 {
			r.w.log("%s: gives %d receipts back: %v", r.name, len(b.Deliveries), err)
			b.Expire()
			return
		}
		b.Settle()
	})
}

// round is one round of a healthy relay.
func (r *relayProc) round() {
	if r.busy() || !r.awake() {
		return
	}
	for r.hear() {
	}
	for range 2 {
		r.read()
		r.begin()
		r.finish()
		r.w.broker.PublishAll()
	}
}

// relayStore is the relay's connection to its outbox, with stops and errors.
type relayStore struct{ r *relayProc }

func (s relayStore) do(what string, fn func() error) error {
	if s.r.dead {
		return errDead
	}
	s.r.yield("before " + what)
	before, after := s.r.hiccup()
	if before {
		s.r.w.log("%s: %s fails", s.r.name, what)
		return errHiccup
	}
	err := fn()
	s.r.yield("after " + what)
	if after && err == nil {
		s.r.w.log("%s: %s done, and fails", s.r.name, what)
		return errHiccup
	}
	return err
}

func (s relayStore) Lease(ctx context.Context) (l outbox.Lease, err error) {
	err = s.do("Lease", func() error { l, err = s.r.box.store.Lease(ctx); return err })
	return l, err
}

func (s relayStore) Take(ctx context.Context, seen outbox.Lease, owner string) (l outbox.Lease, err error) {
	err = s.do("Take", func() error {
		if l, err = s.r.box.store.Take(ctx, seen, owner); err == nil {
			s.r.w.log("%s: leads with epoch %d", s.r.name, l.Epoch)
			s.r.w.takeovers++
			s.r.box.leader = s.r
		}
		return err
	})
	return l, err
}

func (s relayStore) Beat(ctx context.Context, l outbox.Lease, resign bool) (next outbox.Lease, err error) {
	err = s.do("Beat", func() error { next, err = s.r.box.store.Beat(ctx, l, resign); return err })
	return next, err
}

func (s relayStore) Load(ctx context.Context) (snap outbox.Snapshot, err error) {
	err = s.do("Load", func() error { snap, err = s.r.box.store.Load(ctx); return err })
	return snap, err
}

func (s relayStore) Scan(ctx context.Context, after int64, limit int, payload bool) (p outbox.Page, err error) {
	err = s.do("Scan", func() error { p, err = s.r.box.store.Scan(ctx, after, limit, payload); return err })
	return p, err
}

func (s relayStore) Read(ctx context.Context, seqs []int64) (p outbox.Page, err error) {
	err = s.do("Read", func() error { p, err = s.r.box.store.Read(ctx, seqs); return err })
	return p, err
}

func (s relayStore) Probe(ctx context.Context, gaps []outbox.Gap, limit int) (p outbox.Page, closed []outbox.Gap, err error) {
	err = s.do("Probe", func() error { p, closed, err = s.r.box.store.Probe(ctx, gaps, limit); return err })
	return p, closed, err
}

func (s relayStore) Commit(ctx context.Context, l outbox.Lease, c outbox.Checkpoint) (next outbox.Lease, err error) {
	err = s.do("Commit", func() error {
		w, b := s.r.w, s.r.box
		if next, err = b.store.Commit(ctx, l, c); err != nil {
			return err
		}
		if b.leader != s.r {
			w.fail("a zombie's write was accepted: %s", s.r.name)
		}
		for _, row := range c.Release {
			w.log("%s: releases %s", s.r.name, w.called(row.ID))
		}
		w.released(s.r.name, c.Release)
		if !w.healing {
			w.early += len(c.Release)
		}
		w.owned(b)
		return nil
	})
	return next, err
}
