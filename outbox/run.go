package outbox

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/twostep-mq/twostep/broker"
)

// drainTime is how long a stopping relay waits for acknowledgements that are on their way.
const drainTime = 500 * time.Millisecond

// Run relays until ctx ends. Then it writes what is confirmed, gives the lease away and returns nil. Many relays may run for one
// outbox; one works, the others stand by.
func (r *Relay) Run(ctx context.Context) error {
	snap, err := r.waitForStore(ctx)
	if err != nil {
		return stopped(ctx, err)
	}
	inbox := Inbox(snap.UUID)
	if err := r.ensureInbox(ctx, inbox); err != nil {
		return stopped(ctx, err)
	}
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer stop()
	helpers.Go(func() {
		for work.Err() == nil {
			err := r.broker.WatchState(work, "registry.", func(ev broker.StateEvent) error { r.Announce(ev); return nil })
			if err != nil && work.Err() == nil {
				r.log.Warn("watching the registry failed; it is tried again", "error", err)
				pause(work)
			}
		}
	})
	stopBell, err := r.broker.Listen(work, inbox, r.queue.ring)
	if err != nil {
		return fmt.Errorf("outbox: listen to the doorbell: %w", err)
	}
	defer stopBell()
	// A round that waits for the broker when it is time to stop does not end by itself.
	round, cut := context.WithCancel(work)
	defer cut()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(drainTime, cut) })()
	var reader reader
	defer func() { reader.stop() }()
	var stopAnswers func()
	rounds := complaint{log: r.log}
	for ctx.Err() == nil {
		next, err := r.Step(round)
		if ctx.Err() == nil {
			rounds.about(err, r.cfg.Now())
		}
		if leads := r.Leads(); leads && !reader.running() {
			reader.start(work, r, inbox)
			if stopAnswers, err = r.broker.Answer(work, inbox, r.answer); err != nil {
				r.log.Warn("cannot answer requests", "error", err)
			}
		} else if !leads && reader.running() {
			reader.stop()
			if stopAnswers != nil {
				stopAnswers()
			}
		}
		r.wait(ctx, next)
	}
	if stopAnswers != nil {
		stopAnswers()
	}
	return r.resign(work, &reader)
}

// stopped is nil where err came of being stopped.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// waitForStore loads the outbox's identity; the database may come up later than we do.
func (r *Relay) waitForStore(ctx context.Context) (Snapshot, error) {
	for {
		snap, err := r.store.Load(ctx)
		if err == nil {
			return snap, nil
		}
		if ctx.Err() != nil {
			return Snapshot{}, fmt.Errorf("outbox: relay: %w", err)
		}
		r.log.Warn("cannot read the outbox; it is tried again", "error", err)
		pause(ctx)
	}
}

func (r *Relay) ensureInbox(ctx context.Context, inbox string) error {
	for {
		err := r.broker.EnsureInbox(ctx, inbox)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("outbox: make inbox %s: %w", inbox, err)
		}
		r.log.Warn("cannot make the outbox's inbox; it is tried again", "inbox", inbox, "error", err)
		pause(ctx)
	}
}

func (r *Relay) wait(ctx context.Context, next time.Time) {
	d := next.Sub(r.cfg.Now())
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-r.queue.wake:
	case <-t.C:
	}
}

// resign waits a little for acknowledgements, checkpoints, stops reading and gives the lease away.
func (r *Relay) resign(ctx context.Context, reader *reader) error {
	defer reader.stop()
	if !r.Leads() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if m := r.mem; m != nil {
		until := time.Now().Add(drainTime)
		for len(m.flight) > 0 && time.Now().Before(until) {
			r.takeIn(m, r.cfg.Now())
			t, stop := context.WithTimeout(ctx, 5*time.Millisecond)
			select {
			case <-t.Done():
			case <-r.queue.wake:
			}
			stop()
		}
		r.takeIn(m, r.cfg.Now())
		if err := r.judge(r.checkpoint(ctx, m, r.cfg.Now(), true)); err != nil {
			r.log.Warn("last checkpoint failed; the next relay starts from the one before", "error", err)
		}
	}
	r.forget()
	reader.stop()
	if !r.Leads() {
		return nil
	}
	if _, err := r.store.Beat(ctx, r.lease, true); err != nil {
		return fmt.Errorf("outbox: give the lease away: %w", err)
	}
	r.log.Info("stopped relaying", "epoch", r.lease.Epoch)
	r.lease = Lease{}
	// Whoever stands by need not wait for its next look.
	if snap, err := r.store.Load(ctx); err == nil {
		_ = r.broker.Ring(ctx, Inbox(snap.UUID))
	}
	return nil
}

// reader reads the outbox's inbox while this relay leads.
type reader struct {
	cancel context.CancelFunc
	done   chan struct{}
}

func (rd *reader) running() bool { return rd.cancel != nil }

func (rd *reader) start(ctx context.Context, r *Relay, inbox string) {
	ctx, rd.cancel = context.WithCancel(ctx)
	rd.done = make(chan struct{})
	go func() {
		defer close(rd.done)
		for ctx.Err() == nil {
			err := r.broker.Consume(ctx, broker.Source{Inbox: inbox}, func(ctx context.Context, ds []broker.Delivery) error {
				settled := make(chan error, 1)
				r.Offer(ds, func(err error) { settled <- err })
				select {
				case err := <-settled:
					return err
				case <-ctx.Done():
					return ctx.Err()
				}
			})
			if ctx.Err() != nil {
				return
			}
			r.log.Warn("reading receipts failed; it is tried again", "error", err)
			pause(ctx)
		}
	}()
}

func (rd *reader) stop() {
	if rd.cancel == nil {
		return
	}
	rd.cancel()
	<-rd.done
	rd.cancel = nil
}

// pause is the wait before what failed is tried again.
func pause(ctx context.Context) {
	t := time.NewTimer(time.Second)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
