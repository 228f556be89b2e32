package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/mattn/go-sqlite3"

	"github.com/twostep-mq/twostep/orchestrator/txn"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/outbox/storage"
	"github.com/twostep-mq/twostep/topics"
)

// consumerTx is one transaction on a consumer's database. Being IMMEDIATE it is the only writer, so what it reads stays.
// That it still is the same transaction at Commit, the driver proves (see tx).
type consumerTx struct {
	tx      *sql.Tx
	drv     *fileDriver
	handed  *managedTx
	claimed map[claim]struct{} // barrier rows this transaction wrote
}

type claim struct{ uid, id string }

var _ topics.StoreTx = (*consumerTx)(nil)

// explain makes what the driver says of a lost transaction the port's word.
func (t *consumerTx) explain(op string, err error) error {
	if errors.Is(err, ErrEnded) && !errors.Is(err, topics.ErrTransactionLost) {
		return fmt.Errorf("%w (%w)", topics.ErrTransactionLost, err)
	}
	return explain(op, t.drv.path, err)
}

// Tx is what a handler gets.
func (t *consumerTx) Tx() outbox.Tx { return t.handed }

// The barrier row of a topic message is (message id, subscription uid, action, 01).
const (
	claimRows = `INSERT INTO twostep_barrier (gid, branch_id, op, barrier_id, outcome)
SELECT value, ?2, 'action', '01', ?3 FROM json_each(?1) WHERE true
ON CONFLICT (gid, branch_id, op, barrier_id) DO NOTHING RETURNING gid`

	barrierRows = `SELECT b.gid, b.outcome FROM json_each(?1) i CROSS JOIN twostep_barrier b
ON b.gid = i.value AND b.branch_id = ?2 AND b.op = 'action' AND b.barrier_id = '01'`
)

// Claim writes the barrier rows of messages for a subscription, and returns for each id what stood there before.
func (t *consumerTx) Claim(ctx context.Context, uid string, ids []string, as txn.Outcome) ([]txn.Outcome, error) {
	before := make([]txn.Outcome, len(ids))
	if len(ids) == 0 {
		return before, nil
	}
	list, err := jsonStrings(ids)
	if err != nil {
		return nil, fmt.Errorf("sqlite: claim messages: id %w", err)
	}
	ours, err := t.queryStrings(ctx, claimRows, list, uid, string(as))
	if err != nil {
		return nil, t.explain("claim messages", err)
	}
	for _, id := range ours {
		t.claimed[claim{uid, id}] = struct{}{}
	}
	if len(ours) == len(ids) {
		return before, nil
	}
	stood, err := t.outcomes(ctx, uid, list)
	if err != nil {
		return nil, t.explain("read claims", err)
	}
	for i, id := range ids {
		if _, ok := t.claimed[claim{uid, id}]; ok {
			continue
		}
		if before[i] = stood[id]; before[i] == "" {
			return nil, fmt.Errorf("sqlite: claim messages: the barrier row of %q was neither written nor found", id)
		}
	}
	return before, nil
}

// queryStrings reads one column.
func (t *consumerTx) queryStrings(ctx context.Context, query string, args ...any) (list []string, err error) {
	rows, err := t.tx.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, rows.Err()
}

// outcomes reads the barrier rows of ids, given as a JSON array.
func (t *consumerTx) outcomes(ctx context.Context, uid, ids string) (stood map[string]txn.Outcome, err error) {
	rows, err := t.tx.QueryContext(ctx, barrierRows, ids, uid)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	stood = map[string]txn.Outcome{}
	for rows.Next() {
		var id, outcome string
		if err := rows.Scan(&id, &outcome); err != nil {
			return nil, err
		}
		stood[id] = txn.Outcome(outcome)
	}
	return stood, rows.Err()
}

// Unclaim takes barrier rows back that this transaction wrote.
func (t *consumerTx) Unclaim(ctx context.Context, uid string, ids []string) error {
	for _, id := range ids {
		if _, ok := t.claimed[claim{uid, id}]; !ok {
			return fmt.Errorf("sqlite: unclaim %s: this transaction has not claimed it", id)
		}
	}
	list, err := jsonStrings(ids)
	if err != nil {
		return fmt.Errorf("sqlite: unclaim messages: id %w", err)
	}
	_, err = t.tx.ExecContext(ctx, `DELETE FROM twostep_barrier
WHERE gid IN (SELECT value FROM json_each(?1)) AND branch_id = ?2 AND op = 'action' AND barrier_id = '01'`, list, uid)
	if err != nil {
		return t.explain("unclaim messages", err)
	}
	for _, id := range ids {
		delete(t.claimed, claim{uid, id})
	}
	return nil
}

// Claimed tells which ids have a barrier row.
func (t *consumerTx) Claimed(ctx context.Context, uid string, ids []string) (map[string]bool, error) {
	list, err := jsonStrings(ids)
	if err != nil {
		return nil, fmt.Errorf("sqlite: read claims: id %w", err)
	}
	stood, err := t.outcomes(ctx, uid, list)
	if err != nil {
		return nil, t.explain("read claims", err)
	}
	claimed := make(map[string]bool, len(stood))
	for id := range stood {
		claimed[id] = true
	}
	return claimed, nil
}

// ParkedKeys tells which keys have parked messages.
func (t *consumerTx) ParkedKeys(ctx context.Context, uid string, keys []string, dead bool) (map[string]bool, error) {
	list, err := jsonStrings(keys)
	if err != nil {
		return nil, fmt.Errorf("sqlite: read parked keys: key %w", err)
	}
	query := `SELECT k.value FROM json_each(?1) k WHERE EXISTS (
  SELECT 1 FROM twostep_parked p WHERE p.subscription = ?2 AND p."key" = k.value AND p."key" > '' AND p.state <> 'dead')`
	if dead {
		query = `SELECT k.value FROM json_each(?1) k WHERE EXISTS (
  SELECT 1 FROM twostep_parked p WHERE p.subscription = ?2 AND p."key" = k.value AND p."key" > '')`
	}
	found, err := t.queryStrings(ctx, query, list, uid)
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
	parkRow = `INSERT INTO twostep_parked (subscription, id, topic, "key", state, attempts, next_at, reason, parked_at,
  gid, branch_id, op, content_type, headers, outbox, outbox_seq, prev, time, payload)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`

	newBarrier = `INSERT INTO twostep_barrier (gid, branch_id, op, barrier_id, outcome) VALUES (?, ?, 'action', '01', ?)
ON CONFLICT (gid, branch_id, op, barrier_id) DO NOTHING`

	setBarrier = `INSERT INTO twostep_barrier (gid, branch_id, op, barrier_id, outcome) VALUES (?, ?, 'action', '01', ?)
ON CONFLICT (gid, branch_id, op, barrier_id) DO UPDATE SET outcome = excluded.outcome`
)

// Park adds parked messages; their barrier rows get the outcome parked. A barrier row of another transaction is not touched:
// that message was executed or parked before (topics.ErrConflict).
func (t *consumerTx) Park(ctx context.Context, ps []topics.Parked) error {
	for i := range ps {
		if err := t.park(ctx, &ps[i]); err != nil {
			return err
		}
	}
	return nil
}

func (t *consumerTx) park(ctx context.Context, p *topics.Parked) error {
	m := &p.Message
	headers, err := storage.EncodeHeaders(m.Headers)
	if err != nil {
		return fmt.Errorf("sqlite: park %s: %w", m.ID, err)
	}
	query := newBarrier
	key := claim{p.Subscription, m.ID}
	if _, ours := t.claimed[key]; ours {
		query = setBarrier
	}
	res, err := t.tx.ExecContext(ctx, query, m.ID, p.Subscription, string(txn.Parked))
	if err != nil {
		return t.explain("park message", err)
	}
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		return fmt.Errorf("sqlite: park %s: it was executed or parked before: %w", m.ID, errors.Join(topics.ErrConflict, err))
	}
	t.claimed[key] = struct{}{}
	payload := m.Payload
	if payload == nil {
		payload = []byte{} // nil would be NULL
	}
	_, err = t.tx.ExecContext(ctx, parkRow, p.Subscription, m.ID, m.Topic, m.Key, string(p.State), p.Attempts,
		storage.Millis(p.NextAt), p.Reason, storage.Millis(p.ParkedAt), m.GID, m.BranchID, m.Op, m.ContentType, headers, m.Outbox, m.Seq,
		m.Prev, storage.Millis(m.Time), payload)
	var e sqlite3.Error
	if errors.As(err, &e) && e.ExtendedCode == sqlite3.ErrConstraintUnique {
		return fmt.Errorf("sqlite: park %s: it is parked already: %w", m.ID, topics.ErrConflict)
	}
	return t.explain("park message", err)
}

// Lock reads one parked message for changing it. The transaction is the only writer, so reading is enough.
func (t *consumerTx) Lock(ctx context.Context, uid, id string) (topics.Parked, error) {
	list, err := storage.Query(ctx, t.tx, topics.ReadParked, parkedOfID, 0, uid, "", id, 1)
	if err != nil {
		return topics.Parked{}, t.explain("read parked message", err)
	}
	if len(list) == 0 {
		return topics.Parked{}, fmt.Errorf("%w: %s", topics.ErrNotParked, id)
	}
	return list[0], nil
}

// Update writes State, Attempts, NextAt and Reason of a locked parked message.
func (t *consumerTx) Update(ctx context.Context, p topics.Parked) error {
	return t.mustChange(ctx, "update parked message", p.Message.ID,
		`UPDATE twostep_parked SET state = ?, attempts = ?, next_at = ?, reason = ? WHERE subscription = ? AND id = ?`,
		string(p.State), p.Attempts, storage.Millis(p.NextAt), p.Reason, p.Subscription, p.Message.ID)
}

// Settle deletes the parked message and gives its barrier row the outcome.
func (t *consumerTx) Settle(ctx context.Context, uid, id string, as txn.Outcome) error {
	if as == txn.Parked {
		return fmt.Errorf("sqlite: settle %s: %q is no way to end", id, as)
	}
	err := t.mustChange(ctx, "settle parked message", id, `DELETE FROM twostep_parked WHERE subscription = ? AND id = ?`, uid, id)
	if err != nil {
		return err
	}
	_, err = t.tx.ExecContext(ctx, setBarrier, id, uid, string(as))
	return t.explain("settle parked message", err)
}

// mustChange runs a write that finds its parked message, or fails with topics.ErrNotParked.
func (t *consumerTx) mustChange(ctx context.Context, op, id, query string, args ...any) error {
	res, err := t.tx.ExecContext(ctx, query, args...)
	if err != nil {
		return t.explain(op, err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return t.explain(op, err)
	}
	if n == 0 {
		return fmt.Errorf("%w: %s", topics.ErrNotParked, id)
	}
	return nil
}

// Commit commits; topics.ErrTransactionLost if the transaction has ended before. What a handler did in it then is
// undone: SQLite asks before every commit, and the driver lets none pass but this.
func (t *consumerTx) Commit(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	t.handed.over.Store(true)
	return t.explain("commit", t.tx.Commit())
}

// Rollback gives up; after Commit it does nothing. It tells, by topics.ErrTransactionLost, if the transaction had ended
// before; nothing of it stands then either.
func (t *consumerTx) Rollback() error {
	t.handed.over.Store(true)
	if err := t.tx.Rollback(); err != nil && !errors.Is(err, sql.ErrTxDone) {
		return t.explain("roll back", err)
	}
	return nil
}
