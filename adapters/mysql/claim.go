package mysql

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/twostep-mq/twostep/orchestrator/txn"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

// consumerTx is one transaction on a consumer's database.
type consumerTx struct {
	c      *Consumer
	n      *session
	handed *managedTx
	// token marks the barrier rows that this transaction inserts.
	token   []byte
	claimed map[claim]struct{} // barrier rows this transaction wrote
}

type claim struct{ uid, id string }

var _ topics.StoreTx = (*consumerTx)(nil)

func newConsumerTx(c *Consumer, n *session) *consumerTx {
	token := make([]byte, 16)
	_, _ = rand.Read(token) // it never fails
	return &consumerTx{c: c, n: n, handed: &managedTx{n: n}, token: token, claimed: map[claim]struct{}{}}
}

// Tx is what a handler gets.
func (t *consumerTx) Tx() outbox.Tx { return t.handed }

// The barrier row of a topic message is (message id, subscription uid, action, 01).
const (
	claimOne  = "INSERT INTO `{p}barrier` (gid, branch_id, op, barrier_id, outcome, token) VALUES (?, ?, 'action', '01', ?, ?)"
	claimMany = "INSERT INTO `{p}barrier` (gid, branch_id, op, barrier_id, outcome, token) VALUES "
	claimRow  = "(?, ?, 'action', '01', ?, ?)"
	// Where the row is there, nothing changes; IGNORE would hide other errors.
	claimDuplicate = " ON DUPLICATE KEY UPDATE token = token"
	// claimMost rows are claimed in one statement.
	claimMost = 1000

	// readClaims looks each id up by its key. The order of the join is forced: a row that is not asked for is not
	// looked at, and so not waited for.
	readClaims = "SELECT b.gid, b.outcome, b.token FROM JSON_TABLE(?, '$[*]' COLUMNS (h VARCHAR(512) PATH '$')) i " +
		"STRAIGHT_JOIN `{p}barrier` b FORCE INDEX (PRIMARY) ON b.gid = UNHEX(i.h) AND b.branch_id = ? AND b.op = 'action' AND b.barrier_id = '01'"

	unclaim = "DELETE FROM `{p}barrier` WHERE gid = ? AND branch_id = ? AND op = 'action' AND barrier_id = '01' AND token = ?"
)

// Limits of a barrier's key, in bytes. The table has them, too; but a session without strict mode cuts what is longer.
const (
	maxID  = 256
	maxUID = 128
)

func validIDs(uid string, ids []string) error {
	if uid == "" || len(uid) > maxUID {
		return fmt.Errorf("subscription uid %.40q has %d bytes, the limit is %d", uid, len(uid), maxUID)
	}
	for _, id := range ids {
		if id == "" || len(id) > maxID || !utf8.ValidString(id) || strings.ContainsRune(id, 0) {
			return fmt.Errorf("id %.40q is not text of 1 to %d bytes", id, maxID)
		}
	}
	return nil
}

// Claim writes the barrier rows of messages for a subscription, and returns for each id what stood there before. As the transaction's first
// statement it is repeated after a deadlock, which other claims of the same rows may cause: nothing is lost by that.
func (t *consumerTx) Claim(ctx context.Context, uid string, ids []string, as txn.Outcome) ([]txn.Outcome, error) {
	if len(ids) == 0 {
		return []txn.Outcome{}, nil
	}
	if err := validIDs(uid, ids); err != nil {
		return nil, fmt.Errorf("mysql: claim messages: %w", err)
	}
	first := !t.n.used
	for try := 1; ; try++ {
		before, err := t.claim(ctx, uid, ids, as)
		if err == nil || !first || !is(err, codeDeadlock, codeRecordChanged) || try == deadlockTries {
			return before, explain("claim messages", err)
		}
		if err := pauseBefore(ctx, try); err != nil {
			return nil, err
		}
		if err := t.n.again(ctx); err != nil {
			return nil, explain("begin again", err)
		}
	}
}

func (t *consumerTx) claim(ctx context.Context, uid string, ids []string, as txn.Outcome) ([]txn.Outcome, error) {
	t.n.used = true
	var stood map[string]stood
	var err error
	if len(ids) == 1 {
		_, err = t.n.tx.ExecContext(ctx, t.c.sql.claimOne, []byte(ids[0]), []byte(uid), string(as), t.token)
		if is(err, codeDuplicate) {
			stood, err = t.outcomes(ctx, t.c.sql.readClaims, uid, ids)
		}
	} else {
		if err = t.insertClaims(ctx, uid, ids, as); err == nil {
			stood, err = t.outcomes(ctx, t.c.sql.readClaims, uid, ids)
		}
	}
	if err != nil {
		return nil, err
	}
	before := make([]txn.Outcome, len(ids))
	for i, id := range ids {
		s, there := stood[id]
		if there && !s.ours {
			before[i] = s.outcome
			continue
		}
		if !there && len(ids) > 1 {
			return nil, fmt.Errorf("the barrier row of %q was neither written nor found", id)
		}
		t.claimed[claim{uid, id}] = struct{}{}
	}
	return before, nil
}

// insertClaims inserts in the order of the keys, as everybody does: two of them then wait for each other less often in a circle.
func (t *consumerTx) insertClaims(ctx context.Context, uid string, ids []string, as txn.Outcome) error {
	for some := range slices.Chunk(slices.Sorted(slices.Values(ids)), claimMost) {
		args := make([]any, 0, 4*len(some))
		for _, id := range some {
			args = append(args, []byte(id), []byte(uid), string(as), t.token)
		}
		//nolint:gosec // G202: of constants, placeholders and the checked prefix alone
		query := t.c.sql.claimMany + rowsOf(claimRow, len(some)) + claimDuplicate
		if _, err := t.n.tx.ExecContext(ctx, query, args...); err != nil {
			return err
		}
	}
	return nil
}

// rowsOf repeats the placeholders of a row.
func rowsOf(row string, n int) string { return strings.Repeat(row+", ", n-1) + row }

// stood is what a barrier row says.
type stood struct {
	outcome txn.Outcome
	ours    bool // this transaction inserted it
}

// outcomes reads the barrier rows of ids.
func (t *consumerTx) outcomes(ctx context.Context, query, uid string, ids []string) (all map[string]stood, err error) {
	rows, err := t.n.tx.QueryContext(ctx, query, hexList(ids), []byte(uid))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	all = make(map[string]stood, len(ids))
	for rows.Next() {
		var id, outcome string
		var token []byte
		if err := rows.Scan(&id, &outcome, &token); err != nil {
			return nil, err
		}
		all[id] = stood{outcome: txn.Outcome(outcome), ours: string(token) == string(t.token)}
	}
	return all, rows.Err()
}

// Unclaim takes barrier rows back that this transaction wrote.
func (t *consumerTx) Unclaim(ctx context.Context, uid string, ids []string) error {
	for _, id := range ids {
		if _, ok := t.claimed[claim{uid, id}]; !ok {
			return fmt.Errorf("mysql: unclaim %s: this transaction has not claimed it", id)
		}
	}
	for _, id := range ids {
		if _, err := t.n.tx.ExecContext(ctx, t.c.sql.unclaim, []byte(id), []byte(uid), t.token); err != nil {
			return explain("unclaim messages", err)
		}
		delete(t.claimed, claim{uid, id})
	}
	return nil
}

// Claimed tells which ids have a barrier row that is committed, or this transaction's.
func (t *consumerTx) Claimed(ctx context.Context, uid string, ids []string) (map[string]bool, error) {
	t.n.used = true
	stood, err := t.outcomes(ctx, t.c.sql.claimed, uid, ids)
	if err != nil {
		return nil, explain("read claims", err)
	}
	claimed := make(map[string]bool, len(stood))
	for id := range stood {
		claimed[id] = true
	}
	return claimed, nil
}

// Commit proves that this is the transaction of Claim or Lock, and commits; topics.ErrTransactionLost if it is not.
func (t *consumerTx) Commit(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	t.handed.close()
	return lost("commit", t.n.commit())
}

// Rollback gives up; after Commit it does nothing. It tells, by topics.ErrTransactionLost, if the transaction had ended before.
func (t *consumerTx) Rollback() error {
	t.handed.close()
	return lost("roll back", t.n.rollback())
}

// lost makes what the session says of an ended transaction the port's word.
func lost(op string, err error) error {
	if errors.Is(err, ErrEnded) {
		return fmt.Errorf("%w (%w)", topics.ErrTransactionLost, err)
	}
	return explain(op, err)
}
