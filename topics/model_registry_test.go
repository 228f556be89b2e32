package topics_test

import (
	"context"
	"fmt"

	brokermem "github.com/twostep-mq/twostep/broker/brokertest/memory"
	"github.com/twostep-mq/twostep/topics"
)

// ownerProc is a process that owns the registry.
type ownerProc struct {
	proc
	owner *topics.Owner
	state *brokermem.Watcher
	// retry: something could not be finished.
	retry bool
}

func (w *world) startOwner() *ownerProc {
	o := &ownerProc{proc: w.newProc("owner")}
	o.skew = 0
	o.owner = topics.NewOwner(ownerStore{w.registry, o}, link{o.conn, &o.proc}, topics.OwnerConfig{
		Logger: w.logger(o.name), Now: o.now, NewUID: w.newUUID,
	})
	o.state = o.conn.Watch("")
	w.owners = append(w.owners, o)
	w.log("%s: starts", o.name)
	return o
}

func (w *world) stepOwner() {
	o := w.owners[len(w.owners)-1]
	if len(w.owners) > 1 && w.rng.IntN(4) == 0 {
		o = w.owners[w.rng.IntN(len(w.owners))] // one that was thought dead
	}
	switch {
	case o.dead && o == w.owners[len(w.owners)-1]:
		w.startOwner()
	case o.dead || !o.awake():
	case o.busy():
		o.goOn()
		w.noticeSubscriptions()
	case o.retry:
		o.settle()
	default:
		o.hear()
	}
}

func (o *ownerProc) settle() {
	o.retry = false
	o.start("settle", func() {
		if err := o.owner.ModelSettle(o.w.ctx); err != nil {
			o.w.log("%s: settle: %v", o.name, err)
			o.retry = true
		}
	})
	o.w.noticeSubscriptions()
}

func (o *ownerProc) hear() bool {
	ev, ok := o.state.Next()
	if !ok {
		return false
	}
	what := "hears " + ev.Key
	switch {
	case ev.Reset:
		what = "hears reset"
	case ev.Current:
		what = "hears current"
	}
	o.start(what, func() {
		if err := o.owner.OnState(o.w.ctx, ev); err != nil {
			o.w.log("%s: %v", o.name, err)
			o.retry = true
		}
	})
	o.w.noticeSubscriptions()
	return true
}

// stepCommand is somebody who uses the CLI.
func (w *world) stepCommand() {
	o := w.owners[len(w.owners)-1]
	if o.dead || !o.awake() || o.busy() {
		return
	}
	t := w.topics[w.rng.IntN(len(w.topics))]
	switch n := w.rng.IntN(10); {
	case n < 3:
		o.command("create "+t.name, func() error {
			_, err := o.owner.CreateTopic(w.ctx, t.name, t.settings)
			return err
		})
	case n < 6 && len(w.subs) < 4:
		w.wantSubscription()
	case n < 7 && len(w.subs) > 1 && w.rng.IntN(4) == 0:
		uids := sortedKeysOf(w.subs)
		s := w.subs[uids[w.rng.IntN(len(uids))]]
		o.command("unsubscribe "+s.String(), func() error {
			_, err := o.owner.Unsubscribe(w.ctx, s.topic, s.name)
			return err
		})
	}
}

// wantSubscription declares one, as a starting service does.
func (w *world) wantSubscription() {
	t := w.topics[w.rng.IntN(len(w.topics))]
	d := topics.Declaration{Topic: t.name, Settings: t.settings, Subscription: fmt.Sprintf("sub%d", w.rng.IntN(3))}
	value, err := topics.ModelEncodeDeclaration(d)
	if err != nil {
		w.fail("declaration: %v", err)
		return
	}
	w.log("somebody declares %s/%s", d.Topic, d.Subscription)
	conn := w.broker.Connect("service")
	if err := conn.PutState(w.ctx, "declare."+d.Topic+"."+d.Subscription, value); err != nil {
		w.fail("declaration: %v", err)
	}
}

func (o *ownerProc) command(what string, fn func() error) {
	o.start(what, func() {
		if err := fn(); err != nil {
			o.w.log("%s: %s: %v", o.name, what, err)
		}
		o.retry = true // Run's retries look after what a command left
	})
	o.w.noticeSubscriptions()
}

// roundOwner is one round of a healthy owner.
func (w *world) roundOwner() {
	o := w.owners[len(w.owners)-1]
	if o.dead {
		o = w.startOwner()
	}
	for range 50 {
		w.finishTasks()
		if o.busy() || !o.awake() {
			return
		}
		if o.retry {
			o.settle()
		} else if !o.hear() {
			return
		}
	}
}

// ownerStore is the owner's connection to its database, with stops and errors.
type ownerStore struct {
	store topics.RegistryStore
	o     *ownerProc
}

func (s ownerStore) do(what string, fn func() error) error {
	if s.o.dead {
		return errDead
	}
	s.o.yield("before " + what)
	before, after := s.o.hiccup()
	if before {
		s.o.w.log("%s: %s fails", s.o.name, what)
		return errHiccup
	}
	err := fn()
	s.o.yield("after " + what)
	if after && err == nil {
		s.o.w.log("%s: %s done, and fails", s.o.name, what)
		return errHiccup
	}
	return err
}

func (s ownerStore) LoadRegistry(ctx context.Context) (r topics.Registry, err error) {
	err = s.do("LoadRegistry", func() error { r, err = s.store.LoadRegistry(ctx); return err })
	return r, err
}

func (s ownerStore) ApplyRegistry(ctx context.Context, from int64, c topics.RegistryChange) error {
	return s.do("ApplyRegistry", func() error {
		err := s.store.ApplyRegistry(ctx, from, c)
		s.o.w.noticeSubscriptions()
		return err
	})
}
