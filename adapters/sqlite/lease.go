package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/twostep-mq/twostep/outbox"
)

// Lease reads who relays.
func (o *Outbox) Lease(ctx context.Context) (outbox.Lease, error) {
	var l outbox.Lease
	err := o.db.QueryRowContext(ctx, `SELECT lease_owner, epoch, beat FROM twostep_outbox_meta`).Scan(&l.Owner, &l.Epoch, &l.Beat)
	return l, explain("read the relay's lease", o.drv.path, err)
}

// Take makes owner the relay if the lease still is seen.
func (o *Outbox) Take(ctx context.Context, seen outbox.Lease, owner string) (outbox.Lease, error) {
	if owner == "" {
		return outbox.Lease{}, errors.New("sqlite: take the relay's lease: the owner needs a name")
	}
	return o.writeLease(ctx, "take the relay's lease", `UPDATE twostep_outbox_meta SET lease_owner = ?, epoch = epoch + 1, beat = beat + 1
WHERE epoch = ? AND beat = ? RETURNING lease_owner, epoch, beat`, owner, seen.Epoch, seen.Beat)
}

// Beat says that the owner lives, or gives the lease away.
func (o *Outbox) Beat(ctx context.Context, l outbox.Lease, resign bool) (outbox.Lease, error) {
	if l.Owner == "" {
		return outbox.Lease{}, outbox.ErrLeaseLost // nobody's lease is not held
	}
	query := beatLease
	if resign {
		query = `UPDATE twostep_outbox_meta SET beat = beat + 1, lease_owner = '' WHERE lease_owner = ? AND epoch = ? RETURNING lease_owner, epoch, beat`
	}
	return o.writeLease(ctx, "beat the relay's lease", query, l.Owner, l.Epoch)
}

const beatLease = `UPDATE twostep_outbox_meta SET beat = beat + 1 WHERE lease_owner = ? AND epoch = ? RETURNING lease_owner, epoch, beat`

// writeLease runs a compare-and-swap of the lease in a transaction of its own.
func (o *Outbox) writeLease(ctx context.Context, op, query string, args ...any) (l outbox.Lease, err error) {
	err = o.write(ctx, op, func(sqlTx *sql.Tx, _ int) error {
		l, err = swapLease(ctx, sqlTx, query, args...)
		return err
	})
	return l, err
}

// swapLease runs a compare-and-swap; ErrLeaseLost if it matched nothing.
func swapLease(ctx context.Context, sqlTx *sql.Tx, query string, args ...any) (outbox.Lease, error) {
	var l outbox.Lease
	err := sqlTx.QueryRowContext(ctx, query, args...).Scan(&l.Owner, &l.Epoch, &l.Beat)
	if errors.Is(err, sql.ErrNoRows) {
		return outbox.Lease{}, outbox.ErrLeaseLost
	}
	return l, err
}

// write runs fn in a transaction; life says which file it is.
func (o *Outbox) write(ctx context.Context, op string, fn func(sqlTx *sql.Tx, life int) error) error {
	err := func() error {
		c, err := o.db.Conn(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		sqlTx, err := c.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer func() { _ = sqlTx.Rollback() }()
		life, err := lifeOf(c) // of the connection that writes
		if err != nil {
			return err
		}
		if err := fn(sqlTx, life); err != nil {
			return err
		}
		return sqlTx.Commit()
	}()
	if errors.Is(err, outbox.ErrLeaseLost) || errors.Is(err, outbox.ErrServerChanged) || errors.Is(err, outbox.ErrShortDelete) {
		return fmt.Errorf("%w (%s, %s)", err, op, o.drv.path)
	}
	return explain(op, o.drv.path, err)
}
