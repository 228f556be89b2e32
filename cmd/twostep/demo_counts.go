package main

import (
	"context"
	"sync/atomic"

	"github.com/twostep-mq/twostep/cmd/bank/ledger"
	"github.com/twostep-mq/twostep/orchestrator/txn"
	"github.com/twostep-mq/twostep/topics"
)

// Names of counts in the log.
const (
	countDuplicates = "duplicates_absorbed"
	countRetries    = "retries"
	countRelayKills = "relay_kills"
	countCommits    = "commits"
)

// demoCounts counts where things happen. The log keeps them, a few times a second, as what this process has counted; so a crash
// loses a moment's counts and no more.
type demoCounts struct {
	duplicates, retries, relayKills atomic.Int64
	// commits of this process's connections, relayCommits of ended relay processes and the present one.
	commits, relayCommits atomic.Int64
}

func (c *demoCounts) record() ledger.Record {
	return ledger.Record{Event: ledger.EventCounts, Counts: map[string]int64{
		countDuplicates: c.duplicates.Load(), countRetries: c.retries.Load(), countRelayKills: c.relayKills.Load(),
		countCommits: c.commits.Load() + c.relayCommits.Load(),
	}}
}

// countingStore counts the messages that the barrier recognises.
type countingStore struct {
	topics.Store
	counts *demoCounts
}

// TryAgain passes the question on; embedding alone would hide that the store can answer it.
func (s *countingStore) TryAgain(err error) bool {
	judge, ok := s.Store.(topics.RetryJudge)
	return ok && judge.TryAgain(err)
}

// Begin begins a transaction that counts.
func (s *countingStore) Begin(ctx context.Context) (topics.StoreTx, error) {
	tx, err := s.Store.Begin(ctx)
	if err != nil {
		return nil, err
	}
	return &countingTx{StoreTx: tx, counts: s.counts}, nil
}

// countingTx counts a duplicate once it is settled: when its transaction commits, or is given up with nothing to write. One that is
// given up because a handler failed is claimed again in another transaction.
type countingTx struct {
	topics.StoreTx
	counts     *demoCounts
	duplicates int64
	failed     bool
}

// Claim counts the ids that had a barrier row.
func (t *countingTx) Claim(ctx context.Context, uid string, ids []string, as txn.Outcome) ([]txn.Outcome, error) {
	before, err := t.StoreTx.Claim(ctx, uid, ids, as)
	t.failed = err != nil
	for _, o := range before {
		if o != "" {
			t.duplicates++
		} else {
			t.failed = true // something is to be run or refused: only a commit settles this batch
		}
	}
	return before, err
}

// Commit settles what was claimed.
func (t *countingTx) Commit(ctx context.Context) error {
	err := t.StoreTx.Commit(ctx)
	if err == nil {
		t.settle()
	}
	return err
}

// Rollback settles a batch of nothing but duplicates.
func (t *countingTx) Rollback() error {
	if !t.failed {
		t.settle()
	}
	return t.StoreTx.Rollback()
}

func (t *countingTx) settle() {
	t.counts.duplicates.Add(t.duplicates)
	t.duplicates = 0
}
