// Package memory is a consumer's database and a registry in memory, for simulations. Transactions are staged: what one writes is
// seen by nobody else before its commit, and one is open at a time, as in SQLite.
package memory

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/twostep-mq/twostep/orchestrator/txn"
	"github.com/twostep-mq/twostep/topics"
)

// barrierKey names a barrier row of a topic message.
type barrierKey struct{ uid, id string }

// tables are what a transaction changes.
type tables struct {
	barrier map[barrierKey]txn.Outcome
	parked  map[barrierKey]topics.Parked
	seq     int64
}

// Store is a topics.Store.
type Store struct {
	tables
	// writer holds a token while a transaction is open.
	writer chan struct{}
}

var _ topics.Store = (*Store)(nil)

// New makes an empty database.
func New() *Store {
	return &Store{
		tables: tables{barrier: map[barrierKey]txn.Outcome{}, parked: map[barrierKey]topics.Parked{}},
		writer: make(chan struct{}, 1),
	}
}

// Busy reports whether a transaction is open: Begin would wait.
func (s *Store) Busy() bool { return len(s.writer) > 0 }

// Begin implements topics.Store. It waits while another transaction is open.
func (s *Store) Begin(ctx context.Context) (topics.StoreTx, error) {
	select {
	case s.writer <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return &Tx{store: s, staged: tables{
		barrier: map[barrierKey]txn.Outcome{}, parked: map[barrierKey]topics.Parked{}, seq: s.seq,
	}}, nil
}

// Due implements topics.Store.
func (s *Store) Due(ctx context.Context, uid string, now time.Time, holdOnDead bool, limit int) (due []topics.Parked, next time.Time, err error) {
	if err := ctx.Err(); err != nil {
		return nil, next, err
	}
	taken := map[string]bool{}
	for _, p := range s.inOrder(uid) {
		key := p.Message.Topic + "\x00" + p.Message.Key
		if p.Message.Key != "" && taken[key] {
			continue
		}
		if p.State == topics.ParkedDead {
			taken[key] = holdOnDead
			continue
		}
		taken[key] = true
		if p.State == topics.ParkedWaiting && p.NextAt.After(now) {
			if next.IsZero() || p.NextAt.Before(next) {
				next = p.NextAt
			}
			continue
		}
		if len(due) == limit {
			return due, now, nil
		}
		due = append(due, p)
	}
	return due, next, nil
}

func (s *Store) inOrder(uid string) []topics.Parked {
	var out []topics.Parked
	for k, p := range s.parked {
		if k.uid == uid {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b topics.Parked) int { return cmp.Compare(a.Seq, b.Seq) })
	return out
}

// Parked implements topics.Store.
func (s *Store) Parked(ctx context.Context, q topics.ParkedQuery) ([]topics.Parked, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	limit := q.Limit
	if limit == 0 {
		limit = 100
	}
	var out []topics.Parked
	for _, p := range s.parked {
		if (q.Subscription == "" || p.Subscription == q.Subscription) && (q.State == "" || p.State == q.State) &&
			(q.ID == "" || p.Message.ID == q.ID) && p.Seq > q.After {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b topics.Parked) int { return cmp.Compare(a.Seq, b.Seq) })
	return out[:min(len(out), limit)], nil
}

// Outcome is the barrier row's of a message for a subscription; empty: there is none.
func (s *Store) Outcome(uid, id string) txn.Outcome { return s.barrier[barrierKey{uid, id}] }

// apply writes a committed transaction. Deleted parked rows are those without a subscription.
func (t *tables) apply(staged tables) {
	for k, o := range staged.barrier {
		if o == "" {
			delete(t.barrier, k)
		} else {
			t.barrier[k] = o
		}
	}
	for k, p := range staged.parked {
		if p.Subscription == "" {
			delete(t.parked, k)
		} else {
			t.parked[k] = p
		}
	}
	t.seq = staged.seq
}

// Snapshot copies the database, to look at it.
func (s *Store) Snapshot() *Store {
	c := New()
	c.barrier, c.parked, c.seq = maps.Clone(s.barrier), maps.Clone(s.parked), s.seq
	return c
}
