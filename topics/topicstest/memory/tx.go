package memory

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/twostep-mq/twostep/orchestrator/txn"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

var (
	errEnded = errors.New("memory: the transaction has ended")
	errNoSQL = errors.New("memory: this database has no SQL: use OnCommit")
)

// Tx is a topics.StoreTx.
type Tx struct {
	store   *Store
	staged  tables
	effects []func()
	over    bool
	// lost: a handler ended the transaction, or the database did; see End.
	lost bool
}

var _ topics.StoreTx = (*Tx)(nil)

func (tx *Tx) check(ctx context.Context) error {
	if tx.over || tx.lost {
		return errEnded
	}
	return ctx.Err()
}

func (tx *Tx) outcome(k barrierKey) txn.Outcome {
	if o, ok := tx.staged.barrier[k]; ok {
		return o
	}
	return tx.store.barrier[k]
}

func (tx *Tx) find(k barrierKey) (topics.Parked, bool) {
	if p, ok := tx.staged.parked[k]; ok {
		return p, p.Subscription != ""
	}
	p, ok := tx.store.parked[k]
	return p, ok
}

// Claim implements topics.StoreTx.
func (tx *Tx) Claim(ctx context.Context, uid string, ids []string, as txn.Outcome) ([]txn.Outcome, error) {
	if err := tx.check(ctx); err != nil {
		return nil, err
	}
	prior := make([]txn.Outcome, len(ids))
	for i, id := range ids {
		k := barrierKey{uid, id}
		if prior[i] = tx.outcome(k); prior[i] == "" {
			tx.staged.barrier[k] = as
		}
	}
	return prior, nil
}

// Unclaim implements topics.StoreTx.
func (tx *Tx) Unclaim(ctx context.Context, uid string, ids []string) error {
	if err := tx.check(ctx); err != nil {
		return err
	}
	for _, id := range ids {
		k := barrierKey{uid, id}
		if _, mine := tx.staged.barrier[k]; !mine || tx.store.barrier[k] != "" {
			return fmt.Errorf("memory: unclaim of %s, which this transaction did not claim", id)
		}
		delete(tx.staged.barrier, k)
	}
	return nil
}

// Claimed implements topics.StoreTx.
func (tx *Tx) Claimed(ctx context.Context, uid string, ids []string) (map[string]bool, error) {
	if err := tx.check(ctx); err != nil {
		return nil, err
	}
	out := map[string]bool{}
	for _, id := range ids {
		if tx.outcome(barrierKey{uid, id}) != "" {
			out[id] = true
		}
	}
	return out, nil
}

// ParkedKeys implements topics.StoreTx.
func (tx *Tx) ParkedKeys(ctx context.Context, uid string, keys []string, dead bool) (map[string]bool, error) {
	if err := tx.check(ctx); err != nil {
		return nil, err
	}
	asked := map[string]bool{}
	for _, key := range keys {
		asked[key] = true
	}
	out := map[string]bool{}
	look := func(k barrierKey, p topics.Parked) {
		if k.uid == uid && asked[p.Message.Key] && (dead || p.State != topics.ParkedDead) {
			out[p.Message.Key] = true
		}
	}
	for k, p := range tx.store.parked {
		if _, changed := tx.staged.parked[k]; !changed {
			look(k, p)
		}
	}
	for k, p := range tx.staged.parked {
		if p.Subscription != "" {
			look(k, p)
		}
	}
	return out, nil
}

// Park implements topics.StoreTx.
func (tx *Tx) Park(ctx context.Context, ps []topics.Parked) error {
	if err := tx.check(ctx); err != nil {
		return err
	}
	for _, p := range ps {
		k := barrierKey{p.Subscription, p.Message.ID}
		if _, there := tx.find(k); there {
			return fmt.Errorf("memory: %s is parked already", p.Message.ID)
		}
		if tx.outcome(k) == "" {
			return fmt.Errorf("memory: %s is parked without a claim", p.Message.ID)
		}
		tx.staged.seq++
		p.Seq = tx.staged.seq
		tx.staged.parked[k] = p
		tx.staged.barrier[k] = txn.Parked
	}
	return nil
}

// Lock implements topics.StoreTx.
func (tx *Tx) Lock(ctx context.Context, uid, id string) (topics.Parked, error) {
	if err := tx.check(ctx); err != nil {
		return topics.Parked{}, err
	}
	p, there := tx.find(barrierKey{uid, id})
	if !there {
		return topics.Parked{}, topics.ErrNotParked
	}
	return p, nil
}

// Update implements topics.StoreTx.
func (tx *Tx) Update(ctx context.Context, p topics.Parked) error {
	if err := tx.check(ctx); err != nil {
		return err
	}
	k := barrierKey{p.Subscription, p.Message.ID}
	was, there := tx.find(k)
	if !there {
		return topics.ErrNotParked
	}
	was.State, was.Attempts, was.NextAt, was.Reason = p.State, p.Attempts, p.NextAt, p.Reason
	tx.staged.parked[k] = was
	return nil
}

// Settle implements topics.StoreTx.
func (tx *Tx) Settle(ctx context.Context, uid, id string, as txn.Outcome) error {
	if err := tx.check(ctx); err != nil {
		return err
	}
	k := barrierKey{uid, id}
	if _, there := tx.find(k); !there {
		return topics.ErrNotParked
	}
	tx.staged.parked[k] = topics.Parked{}
	tx.staged.barrier[k] = as
	return nil
}

// Commit implements topics.StoreTx.
func (tx *Tx) Commit(ctx context.Context) error {
	if tx.lost && !tx.over {
		tx.end()
		return topics.ErrTransactionLost
	}
	if err := tx.check(ctx); err != nil {
		return err
	}
	tx.commit()
	tx.end()
	return nil
}

func (tx *Tx) commit() {
	tx.store.apply(tx.staged)
	for _, f := range tx.effects {
		f()
	}
	tx.effects = nil
}

// Rollback implements topics.StoreTx.
func (tx *Tx) Rollback() error {
	if tx.over {
		return nil
	}
	tx.end()
	if tx.lost {
		return topics.ErrTransactionLost
	}
	return nil
}

func (tx *Tx) end() {
	tx.over = true
	<-tx.store.writer
}

// End ends the transaction under the dispatcher's feet, as a handler's raw COMMIT (commit) or a swallowed deadlock does.
func (tx *Tx) End(commit bool) {
	if tx.lost || tx.over {
		return
	}
	if commit {
		tx.commit()
	}
	tx.lost = true
}

// OnCommit stages an effect of a handler: f runs if and when the transaction commits.
func OnCommit(tx outbox.Tx, f func()) {
	h, ok := tx.(handlerTx)
	switch {
	case !ok:
		return
	case h.tx.lost: // the next statement commits by itself
		f()
	default:
		h.tx.effects = append(h.tx.effects, f)
	}
}

// End ends the transaction a handler was given; see Tx.End.
func End(tx outbox.Tx, commit bool) {
	if h, ok := tx.(handlerTx); ok {
		h.tx.End(commit)
	}
}

// Tx implements topics.StoreTx.
func (tx *Tx) Tx() outbox.Tx { return handlerTx{tx} }

// handlerTx is what a handler gets: a transaction without SQL.
type handlerTx struct{ tx *Tx }

func (handlerTx) ExecContext(context.Context, string, ...any) (sql.Result, error) {
	return nil, errNoSQL
}
func (handlerTx) PrepareContext(context.Context, string) (*sql.Stmt, error) { return nil, errNoSQL }
func (handlerTx) QueryContext(context.Context, string, ...any) (*sql.Rows, error) {
	return nil, errNoSQL
}
func (handlerTx) QueryRowContext(context.Context, string, ...any) *sql.Row { return nil }
func (handlerTx) Commit() error                                            { return outbox.ErrManaged }
func (handlerTx) Rollback() error                                          { return outbox.ErrManaged }
