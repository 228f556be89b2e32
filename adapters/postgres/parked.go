package postgres

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/twostep-mq/twostep/topics"
)

// parkedColumns of the table under the name p, in the order topics.ReadParked reads them.
const parkedColumns = `p.seq, p.subscription, p.id, p.topic, p."key", p.state, p.attempts, p.next_at, p.reason, p.parked_at,
  p.gid, p.branch_id, p.op, p.content_type, p.headers::text, p.outbox, p.outbox_seq, p.prev, p.time, p.payload`

// Parked messages are listed by number, by state, or one of a subscription: $1 the number before, $2 the subscription, $3 the state,
// $4 the id, $5 the limit. A condition that is empty holds for all.
const (
	parkedList = `SELECT ` + parkedColumns + ` FROM twostep.parked p
WHERE p.seq > $1 AND ($2::text = '' OR p.subscription = $2) AND ($3::text = '' OR p.state = $3) AND ($4::text = '' OR p.id = $4)
ORDER BY p.seq LIMIT $5`

	parkedOfState = `SELECT ` + parkedColumns + ` FROM twostep.parked p
WHERE p.state = $3 AND p.seq > $1 AND ($2::text = '' OR p.subscription = $2) AND ($4::text = '' OR p.id = $4)
ORDER BY p.seq LIMIT $5`

	parkedOfID = `SELECT ` + parkedColumns + ` FROM twostep.parked p
WHERE p.subscription = $2 AND p.id = $4 AND p.seq > $1 AND ($3::text = '' OR p.state = $3)
ORDER BY p.seq LIMIT $5`

	lockParked = `SELECT ` + parkedColumns + ` FROM twostep.parked p WHERE p.subscription = $1 AND p.id = $2 FOR UPDATE`
)

// dueFirsts finds, for a subscription, the first parked message of each key that may stand in the way. It seeks from key to key (by
// the key's hash), so it costs a few reads a key however many messages are held behind it. Keys of one hash, should there ever be
// two, wait for each other. $1 is the subscription, $2 now, $3 the limit.
const dueFirsts = `WITH RECURSIVE
keys (h) AS (
  (SELECT hashtextextended(p."key", 0) FROM twostep.parked p WHERE p.subscription = $1 AND p."key" <> '' ORDER BY 1 LIMIT 1)
  UNION ALL
  SELECT (SELECT hashtextextended(p."key", 0) FROM twostep.parked p
          WHERE p.subscription = $1 AND hashtextextended(p."key", 0) > keys.h AND p."key" <> '' ORDER BY 1 LIMIT 1)
  FROM keys WHERE keys.h IS NOT NULL
),
firsts (seq) AS MATERIALIZED (
  SELECT (SELECT p.seq FROM twostep.parked p
          WHERE p.subscription = $1 AND hashtextextended(p."key", 0) = keys.h AND p."key" <> ''`

// OFFSET 0 keeps the planner from turning the lookup of the few that were found into a join with the whole table.
const (
	// Where a dead letter stands in the way of its key, and where it is passed over.
	firstHold     = dueFirsts + ` ORDER BY p.seq LIMIT 1) FROM keys WHERE keys.h IS NOT NULL)`
	firstContinue = dueFirsts + ` AND p.state <> 'dead' ORDER BY p.seq LIMIT 1) FROM keys WHERE keys.h IS NOT NULL)`

	dueOf = `
SELECT ` + parkedColumns + ` FROM (
  SELECT seq FROM firsts
  UNION ALL
  SELECT q.seq FROM twostep.parked q WHERE q.subscription = $1 AND q.state = 'waiting' AND q."key" = '' AND q.next_at <= $2
  UNION ALL
  SELECT q.seq FROM twostep.parked q WHERE q.subscription = $1 AND q.state = 'held' AND q."key" = ''
) f CROSS JOIN LATERAL (SELECT q.* FROM twostep.parked q WHERE q.seq = f.seq OFFSET 0) p
WHERE p.state = 'held' OR (p.state = 'waiting' AND p.next_at <= $2)
ORDER BY p.seq LIMIT $3`

	nextOf = `
SELECT min(n.at) FROM (
  SELECT p.next_at AS at FROM firsts f CROSS JOIN LATERAL (SELECT q.* FROM twostep.parked q WHERE q.seq = f.seq OFFSET 0) p WHERE p.state = 'waiting' AND p.next_at > $2
  UNION ALL
  SELECT min(q.next_at) FROM twostep.parked q WHERE q.subscription = $1 AND q.state = 'waiting' AND q."key" = '' AND q.next_at > $2
) n`
)

// collect reads all rows into list.
func collect(list *[]topics.Parked) func(pgx.Rows) error {
	return func(rows pgx.Rows) error {
		for rows.Next() {
			p, err := topics.ReadParked(rows)
			if err != nil {
				return err
			}
			*list = append(*list, p)
		}
		return rows.Err()
	}
}

// single reads the one row there is; topics.ErrNotParked if there is none.
func single(p *topics.Parked, id string) func(pgx.Rows) error {
	return func(rows pgx.Rows) error {
		var list []topics.Parked
		if err := collect(&list)(rows); err != nil {
			return err
		}
		switch len(list) {
		case 0:
			return fmt.Errorf("%w: %s", topics.ErrNotParked, id)
		case 1:
			*p = list[0]
			return nil
		}
		return errors.New("two parked messages of one subscription and id")
	}
}
