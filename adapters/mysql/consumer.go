package mysql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/twostep-mq/twostep/outbox/storage"
	"github.com/twostep-mq/twostep/topics"
)

// Consumer is a consumer's database: topics.Store, with the barrier and the parked messages.
type Consumer struct {
	srv *server
	sql consumerStatements
}

var (
	_ topics.Store      = (*Consumer)(nil)
	_ topics.RetryJudge = (*Consumer)(nil)
)

// NewConsumer uses the barrier and parked messages in db, which Migrate has brought up to date.
func NewConsumer(ctx context.Context, db *sql.DB, cfg Config) (*Consumer, error) {
	srv, err := connect(ctx, db, cfg, Service)
	if err != nil {
		return nil, fmt.Errorf("consumer: %w", err)
	}
	return &Consumer{srv: srv, sql: newConsumerStatements(srv)}, nil
}

// TryAgain tells errors that mean "try again", which a handler may have from a Scan.
func (c *Consumer) TryAgain(err error) bool {
	return errors.Is(err, topics.ErrTryAgain) || tryAgain(err)
}

// Begin opens a transaction for one batch: READ COMMITTED, on a session with autocommit=0. ctx bounds the waiting alone; the
// transaction lasts until Commit or Rollback.
func (c *Consumer) Begin(ctx context.Context) (topics.StoreTx, error) {
	n, err := c.srv.begin(ctx)
	if err != nil {
		return nil, explain("begin", err)
	}
	return newConsumerTx(c, n), nil
}

// consumerStatements are the consumer's statements with the tables' names.
type consumerStatements struct {
	claimOne, claimMany, readClaims, claimed, unclaim  string
	park, lock, update, settle, exists, keys, keysLive string
	dueHold, duePass, nextHold, nextPass               string
	parkedList, parkedOfState, parkedOfID              string
}

func newConsumerStatements(srv *server) consumerStatements {
	cfg := srv.cfg
	return consumerStatements{
		claimOne: cfg.sql(claimOne), claimMany: cfg.sql(claimMany), readClaims: cfg.sql(readClaims + srv.forShareOf("b")),
		claimed: cfg.sql(readClaims), unclaim: cfg.sql(unclaim),
		park: cfg.sql(parkMany), lock: cfg.sql(parkedOfID + " FOR UPDATE"), update: cfg.sql(updateParked),
		settle: cfg.sql(settleParked), exists: cfg.sql(existsParked), keys: cfg.sql(parkedKeys), keysLive: cfg.sql(parkedKeysLive),
		dueHold: cfg.sql(dueBefore + firstsHold + dueAfter), duePass: cfg.sql(dueBefore + firstsPass + dueAfter),
		nextHold: cfg.sql(nextBefore + firstsHold + nextAfter), nextPass: cfg.sql(nextBefore + firstsPass + nextAfter),
		parkedList: cfg.sql(parkedList), parkedOfState: cfg.sql(parkedOfState), parkedOfID: cfg.sql(parkedOfID),
	}
}

// The first parked message of each key that may stand in the way: of all, or of those that are not dead letters. The index is
// read from key to key, so it costs a look a key however many messages are held behind it (both columns must be grouped by):
//
//	type: range, key: parked_key, Extra: Using index for group-by
const (
	firstsHold = "SELECT subscription, `key`, MIN(seq) AS seq FROM `{p}parked` FORCE INDEX (parked_key) " +
		"WHERE subscription = ? AND `key` > '' GROUP BY subscription, `key`"
	firstsPass = "SELECT subscription, live_key, MIN(seq) AS seq FROM `{p}parked` FORCE INDEX (parked_live) " +
		"WHERE subscription = ? AND live_key > '' GROUP BY subscription, live_key"

	dueBefore = "SELECT " + parkedColumns + " FROM (SELECT u.seq FROM (" +
		"SELECT q.seq FROM ("
	dueAfter = ") f STRAIGHT_JOIN `{p}parked` q ON q.seq = f.seq WHERE q.state = 'held' OR (q.state = 'waiting' AND q.next_at <= ?)" +
		" UNION ALL SELECT seq FROM `{p}parked` FORCE INDEX (parked_due) WHERE subscription = ? AND `key` = '' AND state = 'waiting' AND next_at <= ?" +
		" UNION ALL SELECT seq FROM `{p}parked` FORCE INDEX (parked_due) WHERE subscription = ? AND `key` = '' AND state = 'held'" +
		") u ORDER BY u.seq LIMIT ?) s STRAIGHT_JOIN `{p}parked` p ON p.seq = s.seq ORDER BY p.seq"

	nextBefore = "SELECT MIN(u.next_at) FROM (SELECT q.next_at FROM ("
	nextAfter  = ") f STRAIGHT_JOIN `{p}parked` q ON q.seq = f.seq WHERE q.state = 'waiting' AND q.next_at > ?" +
		" UNION ALL SELECT MIN(next_at) FROM `{p}parked` FORCE INDEX (parked_due) WHERE subscription = ? AND `key` = '' AND state = 'waiting' AND next_at > ?" +
		") u"
)

// Due lists parked messages of a subscription that may run at now, and when to ask again.
func (c *Consumer) Due(ctx context.Context, uid string, now time.Time, holdOnDead bool, limit int) (due []topics.Parked, next time.Time, err error) {
	at := now.UnixMilli()
	dueQuery, nextQuery := c.sql.duePass, c.sql.nextPass
	if holdOnDead {
		dueQuery, nextQuery = c.sql.dueHold, c.sql.nextHold
	}
	err = func() error {
		tx, err := c.srv.db.BeginTx(ctx, &repeatable)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }()
		if due, err = storage.Query(ctx, tx, topics.ReadParked, dueQuery, uid, at, uid, at, uid, limit+1); err != nil {
			return err
		}
		if len(due) > limit {
			due, next = due[:limit], now // there is more, now
			return nil
		}
		var ms sql.NullInt64
		if err := tx.QueryRowContext(ctx, nextQuery, uid, at, uid, at).Scan(&ms); err != nil {
			return err
		}
		if ms.Valid {
			next = time.UnixMilli(ms.Int64).UTC()
		}
		return nil
	}()
	if err != nil {
		return nil, time.Time{}, explain("read due parked messages", err)
	}
	return due, next, nil
}

// parkedDefaultLimit is ParkedQuery's.
const parkedDefaultLimit = 100

// Parked messages are listed by number, by state, or one of a subscription. A condition that is empty holds for all.
const (
	parkedList = "SELECT " + parkedColumns + " FROM `{p}parked` p WHERE p.seq > ? AND (? = '' OR p.subscription = ?) " +
		"AND (? = '' OR p.state = ?) AND (? = '' OR p.id = ?) ORDER BY p.seq LIMIT ?"
	parkedOfState = "SELECT " + parkedColumns + " FROM `{p}parked` p WHERE p.state = ? AND p.seq > ? AND (? = '' OR p.subscription = ?) " +
		"AND (? = '' OR p.id = ?) ORDER BY p.seq LIMIT ?"
	parkedOfID = "SELECT " + parkedColumns + " FROM `{p}parked` p WHERE p.subscription = ? AND p.id = ?"
)

// Parked lists parked messages in order of parking.
func (c *Consumer) Parked(ctx context.Context, q topics.ParkedQuery) ([]topics.Parked, error) {
	limit := q.Limit
	if limit == 0 {
		limit = parkedDefaultLimit
	}
	sub, state, id := []byte(q.Subscription), string(q.State), []byte(q.ID)
	var list []topics.Parked
	var err error
	switch {
	case q.Subscription != "" && q.ID != "":
		list, err = storage.Query(ctx, c.srv.db, topics.ReadParked, c.sql.parkedOfID+" AND p.seq > ? AND (? = '' OR p.state = ?)", sub, id, q.After, state, state)
	case q.State != "":
		list, err = storage.Query(ctx, c.srv.db, topics.ReadParked, c.sql.parkedOfState, state, q.After, sub, sub, id, id, limit)
	default:
		list, err = storage.Query(ctx, c.srv.db, topics.ReadParked, c.sql.parkedList, q.After, sub, sub, state, state, id, id, limit)
	}
	return list, explain("list parked messages", err)
}

// parkedColumns of the table under the name p, in the order topics.ReadParked reads them.
const parkedColumns = "p.seq, p.subscription, p.id, p.topic, p.`key`, p.state, p.attempts, p.next_at, p.reason, p.parked_at, " +
	"p.gid, p.branch_id, p.op, p.content_type, p.headers, p.outbox, p.outbox_seq, p.prev, p.time, p.payload"
