package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/twostep-mq/twostep/outbox/storage"
	"github.com/twostep-mq/twostep/topics"
)

// Consumer is a consumer's database: topics.Store, with the barrier and the parked messages.
type Consumer struct {
	db  *sql.DB
	drv *fileDriver
}

var _ topics.Store = (*Consumer)(nil)

// NewConsumer uses the barrier and parked messages in db, which Open has opened and Migrate has brought up to date.
func NewConsumer(ctx context.Context, db *sql.DB) (*Consumer, error) {
	drv, err := checkTables(ctx, db, Service)
	if err != nil {
		return nil, fmt.Errorf("consumer: %w", err)
	}
	return &Consumer{db: db, drv: drv}, nil
}

// Begin opens a transaction for one batch. It is the file's only writer until it ends. ctx bounds the waiting alone; the
// transaction lasts until Commit or Rollback.
func (c *Consumer) Begin(ctx context.Context) (topics.StoreTx, error) {
	sqlTx, err := beginManaged(ctx, c.db)
	if err != nil {
		return nil, err // BeginTx has explained it
	}
	return &consumerTx{tx: sqlTx, drv: c.drv, handed: &managedTx{tx: sqlTx}, claimed: map[claim]struct{}{}}, nil
}

// dueFirsts finds, for a subscription, the first parked message of each key that may stand in the way, and all without a
// key. It seeks from key to key, so it costs a few reads a key however many messages are held behind it:
//
//	SEARCH p USING COVERING INDEX twostep_parked_key (subscription=? AND key>?)   for each key
//	SEARCH p USING COVERING INDEX twostep_parked_key (subscription=? AND key=?)   for its first
//
// The term "key" > ” stands wherever the partial indexes are to be used: SQLite looks for just that text.
// ?1 is the subscription, ?2 now, ?3 whether a dead letter stands in the way of its key.
const dueFirsts = `WITH RECURSIVE
keys (k) AS (
  SELECT min("key") FROM twostep_parked WHERE subscription = ?1 AND "key" > ''
  UNION ALL
  SELECT (SELECT min(p."key") FROM twostep_parked p WHERE p.subscription = ?1 AND p."key" > keys.k AND p."key" > '') FROM keys WHERE keys.k IS NOT NULL
),
firsts (seq) AS (
  SELECT CASE WHEN ?3
    THEN (SELECT min(p.seq) FROM twostep_parked p WHERE p.subscription = ?1 AND p."key" = keys.k AND p."key" > '')
    ELSE (SELECT min(p.seq) FROM twostep_parked p WHERE p.subscription = ?1 AND p."key" = keys.k AND p."key" > '' AND p.state <> 'dead')
  END FROM keys WHERE keys.k IS NOT NULL
)
`

const (
	dueQuery = dueFirsts + `SELECT ` + parkedColumns + ` FROM (
  SELECT seq FROM firsts
  UNION ALL
  SELECT seq FROM twostep_parked WHERE subscription = ?1 AND state = 'waiting' AND "key" = '' AND next_at <= ?2
  UNION ALL
  SELECT seq FROM twostep_parked WHERE subscription = ?1 AND state = 'held' AND "key" = ''
) f CROSS JOIN twostep_parked p ON p.seq = f.seq
WHERE p.state = 'held' OR (p.state = 'waiting' AND p.next_at <= ?2)
ORDER BY p.seq LIMIT ?4`

	nextQuery = dueFirsts + `SELECT min(next_at) FROM (
  SELECT p.next_at FROM firsts f CROSS JOIN twostep_parked p ON p.seq = f.seq WHERE p.state = 'waiting' AND p.next_at > ?2
  UNION ALL
  SELECT min(next_at) FROM twostep_parked WHERE subscription = ?1 AND state = 'waiting' AND "key" = '' AND next_at > ?2
)`
)

// Due lists parked messages of a subscription that may run at now, and when to ask again.
func (c *Consumer) Due(ctx context.Context, uid string, now time.Time, holdOnDead bool, limit int) (due []topics.Parked, next time.Time, err error) {
	at := now.UnixMilli()
	err = func() error {
		sqlTx, err := c.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
		if err != nil {
			return err
		}
		defer func() { _ = sqlTx.Rollback() }()
		if due, err = storage.Query(ctx, sqlTx, topics.ReadParked, dueQuery, uid, at, holdOnDead, limit+1); err != nil {
			return err
		}
		if len(due) > limit {
			due, next = due[:limit], now // there is more, now
			return nil
		}
		var ms sql.NullInt64
		if err := sqlTx.QueryRowContext(ctx, nextQuery, uid, at, holdOnDead).Scan(&ms); err != nil {
			return err
		}
		if ms.Valid {
			next = time.UnixMilli(ms.Int64).UTC()
		}
		return nil
	}()
	if err != nil {
		return nil, time.Time{}, explain("read due parked messages", c.drv.path, err)
	}
	return due, next, nil
}

// parkedDefaultLimit is ParkedQuery's.
const parkedDefaultLimit = 100

// Parked messages are listed by number, by state, or one of a subscription: ?1 the number before, ?2 the subscription, ?3 the
// state, ?4 the id, ?5 the limit. A condition that is empty holds for all.
const (
	parkedList = `SELECT ` + parkedColumns + ` FROM twostep_parked p
WHERE p.seq > ?1 AND (?2 = '' OR p.subscription = ?2) AND (?3 = '' OR p.state = ?3) AND (?4 = '' OR p.id = ?4)
ORDER BY p.seq LIMIT ?5`

	parkedOfState = `SELECT ` + parkedColumns + ` FROM twostep_parked p
WHERE p.state = ?3 AND p.seq > ?1 AND (?2 = '' OR p.subscription = ?2) AND (?4 = '' OR p.id = ?4)
ORDER BY p.seq LIMIT ?5`

	parkedOfID = `SELECT ` + parkedColumns + ` FROM twostep_parked p
WHERE p.subscription = ?2 AND p.id = ?4 AND p.seq > ?1 AND (?3 = '' OR p.state = ?3)
ORDER BY p.seq LIMIT ?5`
)

// Parked lists parked messages in order of parking.
func (c *Consumer) Parked(ctx context.Context, q topics.ParkedQuery) ([]topics.Parked, error) {
	limit := q.Limit
	if limit == 0 {
		limit = parkedDefaultLimit
	}
	query := parkedList
	switch {
	case q.Subscription != "" && q.ID != "":
		query = parkedOfID
	case q.State != "":
		query = parkedOfState
	}
	list, err := storage.Query(ctx, c.db, topics.ReadParked, query, q.After, q.Subscription, string(q.State), q.ID, limit)
	return list, explain("list parked messages", c.drv.path, err)
}

// parkedColumns of the table under the name p, in the order topics.ReadParked reads them.
const parkedColumns = `p.seq, p.subscription, p.id, p.topic, p."key", p.state, p.attempts, p.next_at, p.reason, p.parked_at,
  p.gid, p.branch_id, p.op, p.content_type, p.headers, p.outbox, p.outbox_seq, p.prev, p.time, p.payload`
