package outboxtest

import (
	"context"
	"os"
	"sync/atomic"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/outbox"
)

// Point names a moment at which a process may die. A test of a service wraps its store with CrashAt or CrashRelayAt and
// runs the service as a child process that dies there; then it starts the service again and looks at what has become
// of the work.
type Point string

// Points of a sender, in order.
const (
	BeforeInsert Point = "before-insert" // the business change is written, the message is not
	AfterInsert  Point = "after-insert"  // both are written, neither is committed
	BeforeCommit Point = "before-commit" // the function given to Transact has returned nil
	AfterCommit  Point = "after-commit"  // both are committed, nobody was told
)

// Points of a relay, in order.
const (
	AfterTake        Point = "after-take"        // the lease is taken, nothing is loaded
	AfterLoad        Point = "after-load"        // loaded, nothing is scanned
	AfterScan        Point = "after-scan"        // rows are read, nothing is published
	AfterProbe       Point = "after-probe"       // gaps are probed
	BeforeCheckpoint Point = "before-checkpoint" // published and confirmed, nothing is released
	AfterCheckpoint  Point = "after-checkpoint"  // released
	AfterBeat        Point = "after-beat"        // between two rounds
)

// SenderPoints and RelayPoints list the points, for tests that try each.
func SenderPoints() []Point { return []Point{BeforeInsert, AfterInsert, BeforeCommit, AfterCommit} }

// RelayPoints lists the points of a relay.
func RelayPoints() []Point {
	return []Point{AfterTake, AfterLoad, AfterScan, AfterProbe, BeforeCheckpoint, AfterCheckpoint, AfterBeat}
}

// Kill kills this process at once, as kill -9 does: nothing is flushed, nothing is closed. The page cache
// survives it; a power loss is another matter.
func Kill() {
	self, err := os.FindProcess(os.Getpid())
	if err == nil {
		_ = self.Kill()
	}
	select {} // until the signal arrives
}

// Nth calls do at the n-th call, counted from 1, and nothing at the others.
func Nth(n int64, do func()) func() {
	var calls atomic.Int64
	return func() {
		if calls.Add(1) == n {
			do()
		}
	}
}

// CrashAt is the store s that calls crash (Kill, or Nth(3, Kill), or what a test likes) whenever it comes to the point.
func CrashAt(s outbox.Store, at Point, crash func()) outbox.Store {
	return &crashStore{Store: s, crashes: crashes{at, crash}}
}

// CrashRelayAt is the same for a relay's store.
func CrashRelayAt(s outbox.RelayStore, at Point, crash func()) outbox.RelayStore {
	return &crashRelayStore{RelayStore: s, crashes: crashes{at, crash}}
}

type crashes struct {
	at    Point
	crash func()
}

func (c crashes) reach(p Point) {
	if p == c.at {
		c.crash()
	}
}

// reached is for calls that count only if they went well.
func (c crashes) reached(p Point, err error) {
	if err == nil {
		c.reach(p)
	}
}

type crashStore struct {
	outbox.Store
	crashes
}

func (s *crashStore) Insert(ctx context.Context, tx outbox.Execer, m *broker.Message, guard bool) error {
	s.reach(BeforeInsert)
	err := s.Store.Insert(ctx, tx, m, guard)
	s.reached(AfterInsert, err)
	return err
}

func (s *crashStore) Transact(ctx context.Context, fn func(outbox.Tx) error) error {
	err := s.Store.Transact(ctx, func(tx outbox.Tx) error {
		err := fn(tx)
		s.reached(BeforeCommit, err)
		return err
	})
	s.reached(AfterCommit, err)
	return err
}

type crashRelayStore struct {
	outbox.RelayStore
	crashes
}

func (s *crashRelayStore) Take(ctx context.Context, seen outbox.Lease, owner string) (outbox.Lease, error) {
	l, err := s.RelayStore.Take(ctx, seen, owner)
	s.reached(AfterTake, err)
	return l, err
}

func (s *crashRelayStore) Beat(ctx context.Context, l outbox.Lease, resign bool) (outbox.Lease, error) {
	l, err := s.RelayStore.Beat(ctx, l, resign)
	s.reached(AfterBeat, err)
	return l, err
}

func (s *crashRelayStore) Load(ctx context.Context) (outbox.Snapshot, error) {
	loaded, err := s.RelayStore.Load(ctx)
	s.reached(AfterLoad, err)
	return loaded, err
}

func (s *crashRelayStore) Scan(ctx context.Context, after int64, limit int, payload bool) (outbox.Page, error) {
	p, err := s.RelayStore.Scan(ctx, after, limit, payload)
	s.reached(AfterScan, err)
	return p, err
}

func (s *crashRelayStore) Probe(ctx context.Context, gaps []outbox.Gap, limit int) (outbox.Page, []outbox.Gap, error) {
	p, closed, err := s.RelayStore.Probe(ctx, gaps, limit)
	s.reached(AfterProbe, err)
	return p, closed, err
}

func (s *crashRelayStore) Commit(ctx context.Context, l outbox.Lease, c outbox.Checkpoint) (outbox.Lease, error) {
	s.reach(BeforeCheckpoint)
	l, err := s.RelayStore.Commit(ctx, l, c)
	s.reached(AfterCheckpoint, err)
	return l, err
}
