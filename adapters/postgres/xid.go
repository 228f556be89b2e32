package postgres

import (
	"context"
	"database/sql"
)

// nextXID is the number that the next transaction to write will get: every transaction that has one already has a lower one. It takes
// no number itself, unlike pg_current_xact_id. age counts from a given number to the next one, in 32 bits; the snapshot's xmax, which is never
// above it, has the other 32.
const nextXID = `(pg_snapshot_xmax(pg_current_snapshot())::text::bigint +
  ((3 + age('3'::xid)::bigint - pg_snapshot_xmax(pg_current_snapshot())::text::bigint) & 4294967295))`

// Commits counts the transactions that have written anything, in all databases of db's server since it was made: only differences mean
// something. Each of them was made durable once, and those that only read are not among them, other than in pg_stat_database, which is late, too. It
// is exact at any moment, and needs neither a right nor an extension.
//
// Transactions that wrote and were rolled back have a number as well, and so has each savepoint that something was written behind: a measurement
// that uses those counts too many. Autovacuum takes a few.
func Commits(ctx context.Context, db *sql.DB) (int64, error) {
	if err := checkDriver(db); err != nil {
		return 0, err
	}
	var next int64
	if err := db.QueryRowContext(ctx, `SELECT `+nextXID).Scan(&next); err != nil {
		return 0, explain("count commits", err)
	}
	return next, nil
}
