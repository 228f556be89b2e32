package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/twostep-mq/twostep/outbox"
)

// Each change compares and swaps in one statement: a second one waits for the first and then finds nothing.
const (
	readLease   = `SELECT lease_owner, epoch, beat FROM twostep.outbox_meta`
	takeLease   = `UPDATE twostep.outbox_meta SET lease_owner = $1, epoch = epoch + 1, beat = beat + 1 WHERE epoch = $2 AND beat = $3 RETURNING lease_owner, epoch, beat`
	beatLease   = `UPDATE twostep.outbox_meta SET beat = beat + 1 WHERE lease_owner = $1 AND epoch = $2 RETURNING lease_owner, epoch, beat`
	resignLease = `UPDATE twostep.outbox_meta SET beat = beat + 1, lease_owner = '' WHERE lease_owner = $1 AND epoch = $2 RETURNING lease_owner, epoch, beat`
)

// Lease reads who relays.
func (o *Outbox) Lease(ctx context.Context) (outbox.Lease, error) {
	var l outbox.Lease
	err := o.db.QueryRowContext(ctx, o.q.lease).Scan(&l.Owner, &l.Epoch, &l.Beat)
	return l, explain("read the relay's lease", err)
}

// Take makes owner the relay if the lease still is seen.
func (o *Outbox) Take(ctx context.Context, seen outbox.Lease, owner string) (outbox.Lease, error) {
	if owner == "" {
		return outbox.Lease{}, errors.New("postgres: take the relay's lease: the owner needs a name")
	}
	return o.swapLease(ctx, "take the relay's lease", o.q.take, owner, seen.Epoch, seen.Beat)
}

// Beat says that the owner lives, or gives the lease away.
func (o *Outbox) Beat(ctx context.Context, l outbox.Lease, resign bool) (outbox.Lease, error) {
	if l.Owner == "" {
		return outbox.Lease{}, outbox.ErrLeaseLost // nobody's lease is not held
	}
	query := o.q.beat
	if resign {
		query = o.q.resign
	}
	return o.swapLease(ctx, "beat the relay's lease", query, l.Owner, l.Epoch)
}

// swapLease runs a compare-and-swap; ErrLeaseLost if it matched nothing.
func (o *Outbox) swapLease(ctx context.Context, op, query string, args ...any) (outbox.Lease, error) {
	var l outbox.Lease
	err := o.db.QueryRowContext(ctx, query, args...).Scan(&l.Owner, &l.Epoch, &l.Beat)
	if errors.Is(err, sql.ErrNoRows) {
		return outbox.Lease{}, fmt.Errorf("%w (%s)", outbox.ErrLeaseLost, op)
	}
	if err != nil {
		return outbox.Lease{}, explain(op, err)
	}
	return l, nil
}
