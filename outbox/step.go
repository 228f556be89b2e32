package outbox

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Step does one round of the relay's work: keep or seek the lease, take in what arrived, scan, publish, send again,
// checkpoint, report. It returns when the next round is due at the latest; whatever arrives before wakes Run earlier. An error means
// that the round was cut short and will be tried again; nothing is lost by it.
func (r *Relay) Step(ctx context.Context) (next time.Time, err error) {
	now := r.cfg.Now()
	leads, next, err := r.holdLease(ctx, now)
	if err != nil || !leads {
		if !r.Leads() { // else what arrived waits until the store answers again
			r.refuse(r.queue.take())
		}
		return r.orSoon(next, now, err), err
	}
	if r.mem == nil {
		if r.mem, err = r.load(ctx, now); err != nil {
			return r.orSoon(next, now, err), r.judge(err)
		}
		r.generation++
		r.catchUp(r.mem)
	}
	next, err = r.work(ctx, r.mem, now)
	return r.orSoon(next, now, err), r.judge(err)
}

// work is a round with the lease held and the memory loaded.
func (r *Relay) work(ctx context.Context, m *memory, now time.Time) (time.Time, error) {
	rung := r.takeIn(m, now)
	if err := r.scan(ctx, m, now, rung); err != nil {
		return now, err
	}
	if err := r.publish(ctx, m, now); err != nil {
		return now, err
	}
	if err := r.checkpoint(ctx, m, now, false); err != nil {
		return now, err
	}
	if !now.Before(m.brokerAt) {
		if err := r.sendAgain(ctx, m, now); err != nil {
			m.brokerAt = now.Add(time.Second)
			return now, err
		}
		if err := r.report(ctx, m, now); err != nil {
			m.brokerAt = now.Add(time.Second)
			return now, err
		}
	}
	return r.due(m, now), nil
}

// judge throws the memory away where it may be of another history.
func (r *Relay) judge(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrLeaseLost):
		r.log.Warn("another relay owns the outbox now")
		r.drop()
	case errors.Is(err, ErrServerChanged), errors.Is(err, ErrShortDelete):
		r.log.Warn("starting again from the tables", "cause", err)
		r.forget()
	}
	return err
}

// drop gives up the lease in memory; forget the rows alone. Batches that wait for a checkpoint go back to the broker.
func (r *Relay) drop() {
	r.lease = Lease{}
	r.seen, r.seenAt = Lease{}, time.Time{}
	r.forget()
}

func (r *Relay) forget() {
	if r.mem != nil {
		for _, settled := range r.mem.settle {
			settled(errNotLeading)
		}
	}
	r.mem = nil
	r.generation++
}

func (r *Relay) refuse(ev events) {
	for _, b := range ev.inbox {
		b.settled(errNotLeading)
	}
	for _, s := range ev.state {
		r.view.apply(s)
	}
	for _, call := range ev.calls {
		call()
	}
}

func (r *Relay) orSoon(next, now time.Time, err error) time.Time {
	if err != nil {
		return now.Add(100 * time.Millisecond)
	}
	return next
}

// holdLease shows life if it is time to, or takes the lease over if its owner shows none.
func (r *Relay) holdLease(ctx context.Context, now time.Time) (leads bool, next time.Time, err error) {
	if r.Leads() {
		if now.Sub(r.leaseAt) < r.cfg.Beat {
			return true, r.leaseAt.Add(r.cfg.Beat), nil
		}
		l, err := r.store.Beat(ctx, r.lease, false)
		if err != nil {
			return false, now, r.judge(fmt.Errorf("outbox: beat: %w", err))
		}
		r.lease, r.leaseAt = l, now
		return true, now.Add(r.cfg.Beat), nil
	}
	look := min(r.cfg.Lease/10, 500*time.Millisecond)
	if now.Before(r.lookAt) && !r.queue.rang() {
		return false, r.lookAt, nil
	}
	l, err := r.store.Lease(ctx)
	if err != nil {
		return false, now, fmt.Errorf("outbox: read lease: %w", err)
	}
	r.lookAt = now.Add(look)
	if l != r.seen || r.seenAt.IsZero() {
		r.seen, r.seenAt = l, now
	}
	if l.Owner != "" && now.Sub(r.seenAt) < r.cfg.Lease {
		return false, r.lookAt, nil
	}
	taken, err := r.store.Take(ctx, l, r.cfg.Owner)
	if errors.Is(err, ErrLeaseLost) {
		return false, r.lookAt, nil
	}
	if err != nil {
		return false, now, fmt.Errorf("outbox: take lease: %w", err)
	}
	r.log.Info("relaying", "epoch", taken.Epoch, "before", l.Owner)
	r.lease, r.leaseAt = taken, now
	return true, now.Add(r.cfg.Beat), nil
}

// takeIn applies what arrived since the last round.
func (r *Relay) takeIn(m *memory, now time.Time) (rung bool) {
	ev := r.queue.take()
	for _, s := range ev.state {
		if s.Reset {
			m.reportSoon = true
		}
		if r.view.apply(s) {
			r.catchUp(m)
		}
	}
	for _, a := range ev.acks {
		if a.generation == r.generation {
			r.acknowledged(m, a, now)
		}
	}
	for _, b := range ev.inbox {
		r.takeInbox(m, b, now)
	}
	for _, call := range ev.calls {
		call()
	}
	return ev.rung
}

// takeInbox reads receipts and our own markers. A batch is settled when a checkpoint holds what it said.
func (r *Relay) takeInbox(m *memory, b inboxBatch, now time.Time) {
	for _, d := range b.ds {
		switch d.ContentType {
		case markerType:
			m.lag.arrived(string(d.Payload))
		default:
			rc, err := DecodeReceipt(d.Payload)
			if err != nil {
				r.log.Error("inbox holds something that is no receipt: ignored", "outbox", m.uuid, "content_type", d.ContentType, "bytes", len(d.Payload))
				continue
			}
			for _, e := range rc.Entries {
				m.confirmed(rc.Subscription, e, now)
			}
		}
	}
	m.lingerFrom(now)
	m.settle = append(m.settle, b.settled)
}

// due says when the next round has something to do by itself.
func (r *Relay) due(m *memory, now time.Time) time.Time {
	next := r.leaseAt.Add(r.cfg.Beat)
	sooner := func(t time.Time) {
		if t.Before(next) {
			next = t
		}
	}
	if r.room(m) > 0 { // else an acknowledgement comes first, and wakes us
		sooner(m.scanAt.Add(r.cfg.Poll))
		if m.more {
			sooner(m.scanAt.Add(r.gapNow(m)))
		}
	}
	if !m.gaps.empty() {
		sooner(m.probeAt.Add(m.gaps.pause(now)))
	}
	if m.unsaved > 0 || len(m.settle) > 0 || m.registryDirty {
		sooner(m.unsavedSince.Add(r.cfg.Linger))
	}
	if r.room(m) > 0 && m.anyReady(now) {
		sooner(now.Add(scanEvery))
	}
	for _, p := range m.paused {
		if p.until.After(now) {
			sooner(p.until)
		}
	}
	if !m.win.rows.IsEmpty() {
		sooner(laterOf(m.positionsAt.Add(r.cfg.Positions), m.brokerAt))
	}
	if m.lag.back {
		sooner(laterOf(m.lag.later[aboutMarker], m.brokerAt))
	}
	sooner(laterOf(m.reportLookAt.Add(r.cfg.ReportEvery), m.brokerAt))
	return laterOf(next, now)
}

func laterOf(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
