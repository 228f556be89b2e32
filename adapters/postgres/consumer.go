package postgres

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/twostep-mq/twostep/topics"
)

// Consumer is a consumer's database: topics.Store, with the barrier and the parked messages.
type Consumer struct {
	db    *sql.DB
	q     consumerQueries
	turns turns
}

var (
	_ topics.Store      = (*Consumer)(nil)
	_ topics.RetryJudge = (*Consumer)(nil)
)

// consumerQueries are the queries with the real names in them.
type consumerQueries struct {
	claim, outcomes, unclaim               string
	keys, keysAlive                        string
	setBarrier, park, lock, update, delete string
	dueHold, dueContinue                   string
	nextHold, nextContinue                 string
	parkedList, parkedOfState, parkedOfID  string
}

// NewConsumer uses the barrier and parked messages in db, which Migrate has brought up to date. It refuses a server that may lose
// what it acknowledges.
func NewConsumer(ctx context.Context, db *sql.DB, cfg Config) (*Consumer, error) {
	n, err := prepare(ctx, db, Service, cfg)
	if err != nil {
		return nil, fmt.Errorf("consumer: %w", err)
	}
	return &Consumer{db: db, q: newConsumerQueries(n)}, nil
}

func newConsumerQueries(n names) consumerQueries {
	return consumerQueries{
		claim: n.sql(claimRows), outcomes: n.sql(barrierRows), unclaim: n.sql(unclaimRows),
		keys: n.sql(parkedKeys), keysAlive: n.sql(parkedKeysAlive),
		setBarrier: n.sql(setBarrier), park: n.sql(parkRow), lock: n.sql(lockParked), update: n.sql(updateParked), delete: n.sql(deleteParked),
		dueHold: n.sql(firstHold + dueOf), dueContinue: n.sql(firstContinue + dueOf),
		nextHold: n.sql(firstHold + nextOf), nextContinue: n.sql(firstContinue + nextOf),
		parkedList: n.sql(parkedList), parkedOfState: n.sql(parkedOfState), parkedOfID: n.sql(parkedOfID),
	}
}

// TryAgain reports whether an error that a handler got from the driver directly (a Scan, pgx's own calls) means "try again".
func (c *Consumer) TryAgain(err error) bool { return tryAgain(err) }

// Begin opens a transaction (READ COMMITTED) for one batch. ctx bounds the beginning alone.
//
// Barrier rows and parked messages that another transaction is changing are waited for. Keys are not: what ParkedKeys reads is what
// is committed. That is enough. Where a key's predecessor is about to be parked, its barrier row is not committed either, and a
// message that names it is refused; where the last parked message of a key is about to go, its successor is parked as held and
// runs next.
func (c *Consumer) Begin(ctx context.Context) (topics.StoreTx, error) {
	s, err := begin(ctx, c.db)
	if err != nil {
		return nil, err
	}
	return &consumerTx{session: s, q: &c.q, turns: &c.turns, claimed: map[claim]struct{}{}}, nil
}

// Due lists parked messages of a subscription that may run at now, and when to ask again.
func (c *Consumer) Due(ctx context.Context, uid string, now time.Time, holdOnDead bool, limit int) ([]topics.Parked, time.Time, error) {
	dueQuery, nextQuery := c.q.dueContinue, c.q.nextContinue
	if holdOnDead {
		dueQuery, nextQuery = c.q.dueHold, c.q.nextHold
	}
	var (
		due  []topics.Parked
		next *int64
		at   = now.UnixMilli()
	)
	err := readSnapshot(ctx, c.db, func(b *pgx.Batch) {
		b.Queue(dueQuery, uid, at, limit+1).Query(collect(&due))
		b.Queue(nextQuery, uid, at).QueryRow(func(row pgx.Row) error { return row.Scan(&next) })
	})
	switch {
	case err != nil:
		return nil, time.Time{}, explain("read due parked messages", err)
	case len(due) > limit:
		return due[:limit], now, nil // there is more, now
	case next != nil:
		return due, time.UnixMilli(*next).UTC(), nil
	}
	return due, time.Time{}, nil
}

// parkedDefaultLimit is ParkedQuery's.
const parkedDefaultLimit = 100

// Parked lists parked messages in order of parking.
func (c *Consumer) Parked(ctx context.Context, q topics.ParkedQuery) (list []topics.Parked, err error) {
	limit := q.Limit
	if limit == 0 {
		limit = parkedDefaultLimit
	}
	query := c.q.parkedList
	switch {
	case q.Subscription != "" && q.ID != "":
		query = c.q.parkedOfID
	case q.State != "":
		query = c.q.parkedOfState
	}
	err = withConn(ctx, c.db, func(pg *pgx.Conn) error {
		rows, err := pg.Query(ctx, query, q.After, q.Subscription, string(q.State), q.ID, limit)
		if err != nil {
			return err
		}
		defer rows.Close()
		return collect(&list)(rows)
	})
	return list, explain("list parked messages", err)
}
