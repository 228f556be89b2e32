package topics_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/twostep-mq/twostep/broker"
	brokermem "github.com/twostep-mq/twostep/broker/brokertest/memory"
)

// task is a piece of a process's work that stops wherever the seed says, and goes on, or is never heard of again. Only one
// goroutine runs at any time: the world's or one task's.
type task struct {
	resume chan bool
	paused chan struct{}
	done   bool
	where  string
}

func newTask(fn func(), failed func(error)) *task {
	t := &task{resume: make(chan bool), paused: make(chan struct{})}
	go func() {
		defer func() {
			if r := recover(); r != nil {
				failed(fmt.Errorf("panic: %v\n%s", r, debug.Stack()))
			}
			t.done = true
			t.paused <- struct{}{}
		}()
		if <-t.resume {
			fn()
		}
	}()
	return t
}

// step runs the task until it stops again.
func (t *task) step() {
	t.resume <- true
	<-t.paused
}

func (t *task) stop(where string) {
	t.where = where
	t.paused <- struct{}{}
	if !<-t.resume {
		runtime.Goexit()
	}
}

// errDead is what a killed process's last deferred calls get.
var errDead = errors.New("model: the process is dead")

// proc is a process: a connection, a clock of its own, and at most one task at a time.
type proc struct {
	w    *world
	name string
	conn *brokermem.Conn
	task *task
	// dead: killed; nothing it does counts any more.
	dead bool
	// asleep: it does not run until then (stopped by the operating system, or waiting).
	asleep time.Time
	skew   time.Duration
}

func (w *world) newProc(name string) proc {
	w.procs++
	name = fmt.Sprintf("%s.%d", name, w.procs)
	return proc{w: w, name: name, conn: w.broker.Connect(name), skew: time.Duration(w.rng.IntN(600)-300) * time.Second}
}

func (p *proc) now() time.Time { return p.w.now.Add(p.skew) }

func (p *proc) awake() bool { return !p.dead && !p.asleep.After(p.w.now) }

func (p *proc) busy() bool { return p.task != nil }

// start begins a piece of work; it runs until it stops for the first time.
func (p *proc) start(what string, fn func()) {
	p.task = newTask(fn, func(err error) { p.w.fail("%s: %v", p.name, err) })
	p.w.log("%s: %s", p.name, what)
	p.goOn()
}

func (p *proc) goOn() {
	p.task.step()
	if p.task.done {
		p.task = nil
	} else {
		p.w.log("%s: stops at %s", p.name, p.task.where)
	}
}

// finish lets the task run to its end, and others who hold it up.
func (p *proc) finish() {
	for range 20 {
		if !p.busy() {
			return
		}
		p.goOn()
	}
	p.w.finishTasks()
}

// yield is where a task may stop.
func (p *proc) yield(where string) {
	if p.dead || p.task == nil || p.w.healing || p.w.rng.Float64() >= p.w.stopRate {
		return
	}
	p.task.stop(where)
}

// wait stops the task for certain.
func (p *proc) wait(where string) {
	if p.dead || p.task == nil {
		return
	}
	p.task.stop(where)
}

func (p *proc) kill(release func()) {
	where := "rest"
	if p.busy() {
		where = p.task.where
	}
	p.w.log("%s: killed at %s", p.name, where)
	p.dead = true
	if p.task != nil {
		p.task.resume <- false
		<-p.task.paused
		p.task = nil
	}
	release()
	p.conn.Kill()
}

// hiccup is what the network or a database does now and then: an error before or after the deed.
func (p *proc) hiccup() (before, after bool) {
	if p.w.healing || p.w.rng.Float64() >= p.w.errorRate {
		return false, false
	}
	before = p.w.rng.IntN(2) == 0
	return before, !before
}

var errHiccup = errors.New("model: connection reset")

// link is a process's connection to the broker, with stops and errors.
type link struct {
	*brokermem.Conn
	p *proc
}

var _ broker.Broker = link{}

func (l link) do(what string, fn func() error) error {
	if l.p.dead {
		return errDead
	}
	l.p.yield("before " + what)
	before, after := l.p.hiccup()
	if before {
		l.p.w.log("%s: %s fails", l.p.name, what)
		return errHiccup
	}
	err := fn()
	l.p.yield("after " + what)
	if after && err == nil {
		l.p.w.log("%s: %s done, and fails", l.p.name, what)
		return errHiccup
	}
	return err
}

func (l link) EnsureTopic(ctx context.Context, t broker.TopicSpec) error {
	return l.do("EnsureTopic", func() error { return l.Conn.EnsureTopic(ctx, t) })
}

func (l link) DeleteTopic(ctx context.Context, topic string) error {
	return l.do("DeleteTopic", func() error { return l.Conn.DeleteTopic(ctx, topic) })
}

func (l link) EnsureSubscription(ctx context.Context, s broker.SubscriptionSpec) error {
	return l.do("EnsureSubscription", func() error { return l.Conn.EnsureSubscription(ctx, s) })
}

func (l link) DeleteSubscription(ctx context.Context, topic, uid string) error {
	return l.do("DeleteSubscription", func() error { return l.Conn.DeleteSubscription(ctx, topic, uid) })
}

func (l link) EnsureInbox(ctx context.Context, inbox string) error {
	return l.do("EnsureInbox", func() error { return l.Conn.EnsureInbox(ctx, inbox) })
}

func (l link) DeleteInbox(ctx context.Context, inbox string) error {
	return l.do("DeleteInbox", func() error { return l.Conn.DeleteInbox(ctx, inbox) })
}

func (l link) PutState(ctx context.Context, key string, value []byte) error {
	return l.do("PutState "+key, func() error { return l.Conn.PutState(ctx, key, value) })
}

func (l link) DeleteState(ctx context.Context, key string) error {
	return l.do("DeleteState "+key, func() error { return l.Conn.DeleteState(ctx, key) })
}

func (l link) Positions(ctx context.Context, topic string, uids []string) (ps broker.Positions, err error) {
	err = l.do("Positions", func() error {
		ps, err = l.Conn.Positions(ctx, topic, uids)
		return err
	})
	return ps, err
}

func (l link) Publish(ctx context.Context, ms []*broker.Message, done func(i int, p broker.Position, err error)) {
	if l.p.dead {
		return
	}
	l.p.yield("before Publish")
	for _, m := range ms {
		l.p.w.log("%s: publishes %s (prev %s)", l.p.name, l.p.w.called(m.ID), l.p.w.called(m.Prev))
	}
	l.Conn.Publish(ctx, ms, done)
	l.p.yield("after Publish")
}

func (l link) Send(ctx context.Context, inbox string, ms []*broker.Message) (n int, err error) {
	if l.p.dead {
		return 0, errDead
	}
	l.p.yield("before Send")
	n, err = l.Conn.Send(ctx, inbox, ms)
	l.p.w.logSend(l.p.name, inbox, ms, err)
	l.p.yield("after Send")
	return n, err
}
