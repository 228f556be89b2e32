package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/twostep-mq/twostep/orchestrator/txn"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/outbox/storage"
	"github.com/twostep-mq/twostep/topics"
)

// consumerTx is one transaction on a consumer's database.
type consumerTx struct {
	*session
	q       *consumerQueries
	claimed map[claim]struct{} // barrier rows this transaction wrote
	turns   *turns
	batch   string // the subscription of a batch of several messages
}

type claim struct{ uid, id string }

var _ topics.StoreTx = (*consumerTx)(nil)

// explain makes what is said of a lost transaction the port's word. A statement of ours on a transaction that had failed or
// ended before finds that out, too.
func (t *consumerTx) explain(op string, err error) error {
	if errors.Is(err, ErrEnded) && !errors.Is(err, topics.ErrTryAgain) {
		return fmt.Errorf("%w (%s: %w)", topics.ErrTransactionLost, op, err)
	}
	if errors.Is(err, topics.ErrNotParked) || errors.Is(err, topics.ErrConflict) {
		return err
	}
	return explain(op, err)
}

// Tx is what a handler gets.
func (t *consumerTx) Tx() outbox.Tx { return t.handed }

// The barrier row of a topic message is (message id, subscription uid, action, 01). Ids come sorted: two transactions that claim the same
// ones wait for each other in one order. Reading back what stood there is a statement of its own, with a later snapshot.
const (
	claimRows = `INSERT INTO twostep.barrier (gid, branch_id, op, barrier_id, outcome)
SELECT i.id, $2::text, 'action', '01', $3::text FROM unnest($1::text[]) WITH ORDINALITY AS i (id, n) ORDER BY i.n
ON CONFLICT (gid, branch_id, op, barrier_id) DO NOTHING RETURNING gid`

	barrierRows = `SELECT b.gid, b.outcome FROM twostep.barrier b
WHERE b.gid = ANY($1::text[]) AND b.branch_id = $2::text AND b.op = 'action' AND b.barrier_id = '01'`

	unclaimRows = `DELETE FROM twostep.barrier b WHERE b.gid = ANY($1::text[]) AND b.branch_id = $2::text AND b.op = 'action' AND b.barrier_id = '01'`
)

// Claim writes the barrier rows of messages for a subscription, and returns for each id what stood there before.
func (t *consumerTx) Claim(ctx context.Context, uid string, ids []string, as txn.Outcome) ([]txn.Outcome, error) {
	before := make([]txn.Outcome, len(ids))
	if len(ids) == 0 {
		return before, nil
	}
	b := &pgx.Batch{}
	if len(ids) > 1 {
		t.batch = uid
		t.turns.queue(b, uid)
	}
	var ours []string
	b.Queue(t.q.claim, slices.Sorted(slices.Values(ids)), uid, string(as)).Query(func(rows pgx.Rows) (err error) {
		ours, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	if err := t.run(ctx, false, b.QueuedQueries...); err != nil {
		if codeOf(err) == codeLockNotAvailable {
			t.turns.waited(uid)
		}
		return nil, t.explain("claim messages", err)
	}
	for _, id := range ours {
		t.claimed[claim{uid, id}] = struct{}{}
	}
	if len(ours) == len(ids) {
		return before, nil
	}
	stood, err := t.stood(ctx, uid, ids)
	if err != nil {
		return nil, t.explain("read claims", err)
	}
	for i, id := range ids {
		if _, mine := t.claimed[claim{uid, id}]; mine {
			continue
		}
		if before[i] = stood[id]; before[i] == "" {
			return nil, fmt.Errorf("%w: postgres: claim messages: the barrier row of %q was neither written nor found: somebody deleted it meanwhile", topics.ErrTryAgain, id)
		}
	}
	return before, nil
}

// strings reads one column.
func (t *consumerTx) strings(ctx context.Context, query string, args ...any) (list []string, err error) {
	err = t.query(ctx, func(rows pgx.Rows) error {
		list, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	}, query, args...)
	return list, err
}

// stood reads the barrier rows of ids.
func (t *consumerTx) stood(ctx context.Context, uid string, ids []string) (map[string]txn.Outcome, error) {
	stood := map[string]txn.Outcome{}
	var id, outcome string
	err := t.query(ctx, func(rows pgx.Rows) error {
		_, err := pgx.ForEachRow(rows, []any{&id, &outcome}, func() error {
			stood[id] = txn.Outcome(outcome)
			return nil
		})
		return err
	}, t.q.outcomes, ids, uid)
	return stood, err
}

// Unclaim takes barrier rows back that this transaction wrote.
func (t *consumerTx) Unclaim(ctx context.Context, uid string, ids []string) error {
	for _, id := range ids {
		if _, ok := t.claimed[claim{uid, id}]; !ok {
			return fmt.Errorf("postgres: unclaim %s: this transaction has not claimed it", id)
		}
	}
	if _, err := t.exec(ctx, t.q.unclaim, ids, uid); err != nil {
		return t.explain("unclaim messages", err)
	}
	for _, id := range ids {
		delete(t.claimed, claim{uid, id})
	}
	return nil
}

// Claimed tells which ids have a barrier row.
func (t *consumerTx) Claimed(ctx context.Context, uid string, ids []string) (map[string]bool, error) {
	stood, err := t.stood(ctx, uid, ids)
	if err != nil {
		return nil, t.explain("read claims", err)
	}
	claimed := make(map[string]bool, len(stood))
	for id := range stood {
		claimed[id] = true
	}
	return claimed, nil
}

const (
	parkedKeys = `SELECT k FROM unnest($1::text[]) AS k WHERE k <> '' AND EXISTS (SELECT 1 FROM twostep.parked p
  WHERE p.subscription = $2::text AND hashtextextended(p."key", 0) = hashtextextended(k COLLATE "C", 0) AND p."key" = k AND p."key" <> '')`

	parkedKeysAlive = `SELECT k FROM unnest($1::text[]) AS k WHERE k <> '' AND EXISTS (SELECT 1 FROM twostep.parked p
  WHERE p.subscription = $2::text AND hashtextextended(p."key", 0) = hashtextextended(k COLLATE "C", 0) AND p."key" = k AND p."key" <> '' AND p.state <> 'dead')`
)

// ParkedKeys tells which keys have parked messages.
func (t *consumerTx) ParkedKeys(ctx context.Context, uid string, keys []string, dead bool) (map[string]bool, error) {
	query := t.q.keysAlive
	if dead {
		query = t.q.keys
	}
	found, err := t.strings(ctx, query, keys, uid)
	if err != nil {
		return nil, t.explain("read parked keys", err)
	}
	parked := make(map[string]bool, len(found))
	for _, key := range found {
		parked[key] = true
	}
	return parked, nil
}

const (
	setBarrier = `INSERT INTO twostep.barrier (gid, branch_id, op, barrier_id, outcome) VALUES ($1, $2, 'action', '01', $3)
ON CONFLICT (gid, branch_id, op, barrier_id) DO UPDATE SET outcome = excluded.outcome`

	parkRow = `INSERT INTO twostep.parked (subscription, id, topic, "key", state, attempts, next_at, reason, parked_at,
  gid, branch_id, op, content_type, headers, outbox, outbox_seq, prev, time, payload)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14::text::json, $15, $16, $17, $18, $19)
ON CONFLICT (subscription, id) DO NOTHING`

	updateParked = `UPDATE twostep.parked SET state = $1, attempts = $2, next_at = $3, reason = $4 WHERE subscription = $5 AND id = $6`
	deleteParked = `DELETE FROM twostep.parked WHERE subscription = $1 AND id = $2`
)

// Park adds parked messages, in one round trip; their barrier rows get the outcome parked, whoever has written them: a handler may have
// committed them with a COMMIT of its own. topics.ErrConflict: one is parked already.
func (t *consumerTx) Park(ctx context.Context, ps []topics.Parked) error {
	if len(ps) == 0 {
		return nil
	}
	b := &pgx.Batch{}
	for i := range ps {
		p := &ps[i]
		m := &p.Message
		headers, err := storage.EncodeHeaders(m.Headers)
		if err != nil {
			return fmt.Errorf("postgres: park %s: %w", m.ID, err)
		}
		b.Queue(t.q.setBarrier, m.ID, p.Subscription, string(txn.Parked))
		b.Queue(t.q.park, p.Subscription, m.ID, m.Topic, m.Key, string(p.State), p.Attempts,
			storage.Millis(p.NextAt), p.Reason, storage.Millis(p.ParkedAt), m.GID, m.BranchID, m.Op, m.ContentType, headers, m.Outbox, m.Seq,
			m.Prev, storage.Millis(m.Time), notNil(m.Payload)).
			Exec(must(fmt.Errorf("postgres: park %s: it is parked already: %w", m.ID, topics.ErrConflict)))
	}
	if err := t.run(ctx, false, b.QueuedQueries...); err != nil {
		return t.explain("park messages", err)
	}
	for i := range ps {
		t.claimed[claim{ps[i].Subscription, ps[i].Message.ID}] = struct{}{}
	}
	return nil
}

// must makes err of a statement that changed nothing.
func must(err error) func(pgconn.CommandTag) error {
	return func(tag pgconn.CommandTag) error {
		if tag.RowsAffected() == 0 {
			return err
		}
		return nil
	}
}

// Lock reads one parked message for changing it. It waits for another transaction that has it locked.
func (t *consumerTx) Lock(ctx context.Context, uid, id string) (topics.Parked, error) {
	var p topics.Parked
	if err := t.query(ctx, single(&p, id), t.q.lock, uid, id); err != nil {
		return topics.Parked{}, t.explain("lock parked message", err)
	}
	return p, nil
}

// Update writes State, Attempts, NextAt and Reason of a locked parked message.
func (t *consumerTx) Update(ctx context.Context, p topics.Parked) error {
	tag, err := t.exec(ctx, t.q.update, string(p.State), p.Attempts, storage.Millis(p.NextAt), p.Reason, p.Subscription, p.Message.ID)
	if err == nil {
		err = must(fmt.Errorf("%w: %s", topics.ErrNotParked, p.Message.ID))(tag)
	}
	return t.explain("update parked message", err)
}

// Settle deletes the parked message and gives its barrier row the outcome.
func (t *consumerTx) Settle(ctx context.Context, uid, id string, as txn.Outcome) error {
	if as == txn.Parked {
		return fmt.Errorf("postgres: settle %s: %q is no way to end", id, as)
	}
	tag, err := t.exec(ctx, t.q.delete, uid, id)
	if err == nil {
		err = must(fmt.Errorf("%w: %s", topics.ErrNotParked, id))(tag)
	}
	if err == nil {
		_, err = t.exec(ctx, t.q.setBarrier, id, uid, string(as))
	}
	return t.explain("settle parked message", err)
}

// Commit proves that this still is the transaction that Begin began, and commits; topics.ErrTransactionLost if not.
func (t *consumerTx) Commit(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := t.commit(ctx); err != nil {
		return t.explain("commit", err)
	}
	return nil
}

// Rollback gives up; after Commit it does nothing. topics.ErrTransactionLost says that the transaction had ended before.
func (t *consumerTx) Rollback() error {
	if t.batch != "" && codeOf(t.handed.failed()) == codeDeadlock {
		t.turns.lost(t.batch)
	}
	if err := t.rollback(); err != nil {
		return t.explain("roll back", err)
	}
	return nil
}
