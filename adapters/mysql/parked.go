package mysql

import (
	"context"
	"errors"
	"fmt"

	"github.com/twostep-mq/twostep/orchestrator/txn"
	"github.com/twostep-mq/twostep/outbox/storage"
	"github.com/twostep-mq/twostep/topics"
)

const (
	// The barrier rows, begun by claimMany, get the outcome, or are written with it.
	setOutcome = " ON DUPLICATE KEY UPDATE outcome = VALUES(outcome)"

	parkMany = "INSERT INTO `{p}parked` (subscription, id, topic, `key`, state, attempts, next_at, reason, parked_at, " +
		"live_key, gid, branch_id, op, content_type, headers, outbox, outbox_seq, prev, time, payload) VALUES "
	parkRow = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

	updateParked = "UPDATE `{p}parked` SET state = ?, live_key = IF(? = 'dead', '', `key`), attempts = ?, next_at = ?, reason = ? WHERE subscription = ? AND id = ?"
	settleParked = "DELETE FROM `{p}parked` WHERE subscription = ? AND id = ?"
	existsParked = "SELECT COUNT(*) FROM `{p}parked` WHERE subscription = ? AND id = ?"

	// A subquery with LIMIT is run for each key; with EXISTS the optimizer may join instead, and read all parked messages.
	parkedKeys = "SELECT UNHEX(i.h) FROM JSON_TABLE(?, '$[*]' COLUMNS (h VARCHAR(2048) PATH '$')) i WHERE 1 = (" +
		"SELECT 1 FROM `{p}parked` p FORCE INDEX (parked_key) WHERE p.subscription = ? AND p.`key` = UNHEX(i.h) AND p.`key` > '' LIMIT 1)"
	parkedKeysLive = "SELECT UNHEX(i.h) FROM JSON_TABLE(?, '$[*]' COLUMNS (h VARCHAR(2048) PATH '$')) i WHERE 1 = (" +
		"SELECT 1 FROM `{p}parked` p FORCE INDEX (parked_live) WHERE p.subscription = ? AND p.live_key = UNHEX(i.h) AND p.live_key > '' LIMIT 1)"
)

const (
	// parkMost rows and parkBytes of payload are written in one statement.
	parkMost  = 500
	parkBytes = 1 << 20
	// maxParkedKey bounds the key of a message by whomever, in bytes; see the table.
	maxParkedKey = 1024
)

// ParkedKeys tells which keys have parked messages that are committed, or this transaction's. It does not wait for others that are
// about to park or to settle: who parks an earlier message of a key holds its claim, on which the claim of a later one
// depends; and a message parked behind one that has just gone is due at once.
func (t *consumerTx) ParkedKeys(ctx context.Context, uid string, keys []string, dead bool) (map[string]bool, error) {
	query := t.c.sql.keysLive
	if dead {
		query = t.c.sql.keys
	}
	parked, err := t.parkedKeys(ctx, query, uid, keys)
	return parked, explain("read parked keys", err)
}

func (t *consumerTx) parkedKeys(ctx context.Context, query, uid string, keys []string) (parked map[string]bool, err error) {
	t.n.used = true
	rows, err := t.n.tx.QueryContext(ctx, query, hexList(keys), []byte(uid))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	parked = map[string]bool{}
	for rows.Next() {
		var key string
		if err := rows.Scan(&key); err != nil {
			return nil, err
		}
		parked[key] = true
	}
	return parked, rows.Err()
}

// Park adds parked messages; their barrier rows get the outcome parked, also those of another transaction: a handler may have
// committed them. A message that is parked already is topics.ErrConflict.
func (t *consumerTx) Park(ctx context.Context, ps []topics.Parked) error {
	for len(ps) > 0 {
		n, size := 0, 0
		for n < len(ps) && n < parkMost && (n == 0 || size+len(ps[n].Message.Payload) <= parkBytes) {
			size += len(ps[n].Message.Payload)
			n++
		}
		if err := t.park(ctx, ps[:n]); err != nil {
			return err
		}
		ps = ps[n:]
	}
	return nil
}

func (t *consumerTx) park(ctx context.Context, ps []topics.Parked) error {
	args := make([]any, 0, 20*len(ps))
	branches := make([]claim, 0, len(ps))
	for i := range ps {
		p := &ps[i]
		m := &p.Message
		if err := validIDs(p.Subscription, []string{m.ID}); err != nil {
			return fmt.Errorf("mysql: park: %w", err)
		}
		if len(m.Key) > maxParkedKey {
			return fmt.Errorf("mysql: park %s: its key has %d bytes, the limit is %d", m.ID, len(m.Key), maxParkedKey)
		}
		headers, err := encodeHeaders(m.Headers)
		if err != nil {
			return fmt.Errorf("mysql: park %s: %w", m.ID, err)
		}
		branches = append(branches, claim{p.Subscription, m.ID})
		args = append(args, []byte(p.Subscription), []byte(m.ID), []byte(m.Topic), []byte(m.Key), string(p.State), p.Attempts,
			storage.Millis(p.NextAt), []byte(p.Reason), storage.Millis(p.ParkedAt), liveKey(p), []byte(m.GID), []byte(m.BranchID), []byte(m.Op), []byte(m.ContentType),
			headers, []byte(m.Outbox), m.Seq, []byte(m.Prev), storage.Millis(m.Time), blob(m.Payload))
	}
	if err := t.setOutcomes(ctx, txn.Parked, branches...); err != nil {
		return explain("park messages", err)
	}
	_, err := t.n.tx.ExecContext(ctx, t.c.sql.park+rowsOf(parkRow, len(ps)), args...)
	if is(err, codeDuplicate) {
		return fmt.Errorf("mysql: park %d messages: one of them is parked already: %w (%w)", len(ps), topics.ErrConflict, err)
	}
	if err != nil {
		return explain("park messages", err)
	}
	return nil
}

// liveKey is the key of a message that is no dead letter.
func liveKey(p *topics.Parked) []byte {
	if p.State == topics.ParkedDead {
		return []byte{}
	}
	return []byte(p.Message.Key)
}

// setOutcomes sets what the barrier rows of messages say.
func (t *consumerTx) setOutcomes(ctx context.Context, as txn.Outcome, branches ...claim) error {
	t.n.used = true
	args := make([]any, 0, 4*len(branches))
	for _, b := range branches {
		args = append(args, []byte(b.id), []byte(b.uid), string(as), t.token)
	}
	_, err := t.n.tx.ExecContext(ctx, t.c.sql.claimMany+rowsOf(claimRow, len(branches))+setOutcome, args...)
	return err
}

// Lock reads one parked message for changing it, and waits for others that do.
func (t *consumerTx) Lock(ctx context.Context, uid, id string) (topics.Parked, error) {
	t.n.used = true
	list, err := storage.Query(ctx, t.n.tx, topics.ReadParked, t.c.sql.lock, []byte(uid), []byte(id))
	if err != nil {
		return topics.Parked{}, explain("lock parked message", err)
	}
	if len(list) == 0 {
		return topics.Parked{}, fmt.Errorf("%w: %s", topics.ErrNotParked, id)
	}
	return list[0], nil
}

// Update writes State, Attempts, NextAt and Reason of a locked parked message.
func (t *consumerTx) Update(ctx context.Context, p topics.Parked) error {
	changed, err := t.change(ctx, t.c.sql.update,
		string(p.State), string(p.State), p.Attempts, storage.Millis(p.NextAt), []byte(p.Reason), []byte(p.Subscription), []byte(p.Message.ID))
	if err != nil {
		return explain("update parked message", err)
	}
	if changed {
		return nil
	}
	// A row that is as it should be counts as not changed.
	var n int
	if err := t.n.tx.QueryRowContext(ctx, t.c.sql.exists, []byte(p.Subscription), []byte(p.Message.ID)).Scan(&n); err != nil {
		return explain("update parked message", err)
	}
	if n == 0 {
		return fmt.Errorf("%w: %s", topics.ErrNotParked, p.Message.ID)
	}
	return nil
}

// Settle deletes the parked message and gives its barrier row the outcome.
func (t *consumerTx) Settle(ctx context.Context, uid, id string, as txn.Outcome) error {
	if as == txn.Parked {
		return fmt.Errorf("mysql: settle %s: %q is no way to end", id, as)
	}
	deleted, err := t.change(ctx, t.c.sql.settle, []byte(uid), []byte(id))
	if err != nil {
		return explain("settle parked message", err)
	}
	if !deleted {
		return fmt.Errorf("%w: %s", topics.ErrNotParked, id)
	}
	return explain("settle parked message", t.setOutcomes(ctx, as, claim{uid, id}))
}

// change runs a write and tells whether it changed a row.
func (t *consumerTx) change(ctx context.Context, query string, args ...any) (bool, error) {
	t.n.used = true
	res, err := t.n.tx.ExecContext(ctx, query, args...)
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	if err != nil {
		return false, err
	}
	return n > 0, nil
}
