package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/cmd/bank/ledger"
	"github.com/twostep-mq/twostep/outbox"
)

const (
	quietEvery = 25 * time.Millisecond
	// quietPatience is how long nothing may change before the demo gives up.
	quietPatience = 45 * time.Second
)

// demoLeft is what is still under way.
type demoLeft struct{ unreleased, waiting, dead, credited int }

func (r *demoRun) left(ctx context.Context) (l demoLeft, err error) {
	if l.unreleased, err = r.a.Unreleased(ctx); err != nil {
		return l, err
	}
	err = r.b.QueryRowContext(ctx, `SELECT coalesce(sum(CASE WHEN state = 'dead' THEN 0 ELSE 1 END), 0),
		coalesce(sum(CASE WHEN state = 'dead' THEN 1 ELSE 0 END), 0), (SELECT count(*) FROM entry) FROM twostep_parked`).
		Scan(&l.waiting, &l.dead, &l.credited)
	if err != nil {
		return l, fmt.Errorf("count what bank B has: %w", err)
	}
	return l, nil
}

// leftPatiently asks until both databases answer.
func (r *demoRun) leftPatiently() (l demoLeft, err error) {
	err = throughOutage(r.ctx, func() (err error) { l, err = r.left(r.ctx); return err }, r.a.Kind, r.b.Kind)
	return l, err
}

// waitForQuiet waits until the outbox is empty, nothing is parked that will be tried again, and the copies have been read.
func (r *demoRun) waitForQuiet() error {
	tick := time.NewTicker(quietEvery)
	defer tick.Stop()
	var last demoLeft
	changed := time.Now()
	for {
		l, err := r.leftPatiently()
		if err != nil {
			return err
		}
		if l.unreleased == 0 && l.waiting == 0 {
			quiet, err := r.tap.quiet(r.ctx)
			if err != nil {
				return err
			}
			// A copy that was read may have been parked: look again after it.
			if l, err = r.leftPatiently(); err != nil {
				return err
			}
			if quiet && l.unreleased == 0 && l.waiting == 0 {
				return nil
			}
		}
		if l != last {
			last, changed = l, time.Now()
		}
		if time.Since(changed) > quietPatience {
			return fmt.Errorf("nothing has moved for %v: %d messages are in the outbox, %d parked", quietPatience, l.unreleased, l.waiting)
		}
		select {
		case <-r.ctx.Done():
			return r.ctx.Err()
		case <-tick.C:
		}
	}
}

// showProgress counts the transfers that have ended until ctx does.
func (r *demoRun) showProgress(ctx context.Context) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		l, err := r.left(ctx)
		if err == nil {
			r.progress.show(int(r.ended.Load())+l.credited+l.dead, l.unreleased)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// errSeen ends a watch of the state that has seen enough.
var errSeen = errors.New("seen")

// subscription is the uid of bank B's subscription, as the registry announces it.
func (r *demoRun) subscription(ctx context.Context) (uid string, err error) {
	key := outbox.StateTopicPrefix + ledger.TransIn.Name()
	err = r.broker.WatchState(ctx, key, func(ev broker.StateEvent) error {
		var t outbox.RegistryTopic
		switch {
		case ev.Current:
			return errSeen
		case ev.Key != key:
			return nil
		}
		if err := json.Unmarshal(ev.Value, &t); err != nil {
			return fmt.Errorf("decode %s: %w", key, err)
		}
		for _, s := range t.Subscriptions {
			if !s.Removed {
				uid = s.UID
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, errSeen) {
		return "", err
	}
	return uid, nil
}
