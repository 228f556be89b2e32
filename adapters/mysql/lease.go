package mysql

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
	err := o.srv.db.QueryRowContext(ctx, o.srv.cfg.sql("SELECT lease_owner, epoch, beat FROM `{p}outbox_meta`")).Scan(&l.Owner, &l.Epoch, &l.Beat)
	return l, explain("read the relay's lease", err)
}

// Take makes owner the relay if the lease still is seen.
func (o *Outbox) Take(ctx context.Context, seen outbox.Lease, owner string) (outbox.Lease, error) {
	if owner == "" {
		return outbox.Lease{}, errors.New("mysql: take the relay's lease: the owner needs a name")
	}
	_, swapped, err := o.swap(ctx, o.srv.db, "UPDATE `{p}outbox_meta` SET lease_owner = ?, epoch = epoch + 1, beat = LAST_INSERT_ID(beat + 1) "+
		"WHERE one = 1 AND epoch = ? AND beat = ?", []byte(owner), seen.Epoch, seen.Beat)
	if err != nil {
		return outbox.Lease{}, explain("take the relay's lease", err)
	}
	if !swapped {
		return outbox.Lease{}, fmt.Errorf("%w (take the relay's lease)", outbox.ErrLeaseLost)
	}
	return outbox.Lease{Owner: owner, Epoch: seen.Epoch + 1, Beat: seen.Beat + 1}, nil
}

// beatLease tells the new beat as LAST_INSERT_ID: neither server returns what an UPDATE wrote.
const beatLease = "UPDATE `{p}outbox_meta` SET beat = LAST_INSERT_ID(beat + 1) WHERE one = 1 AND lease_owner = ? AND epoch = ?"

// Beat says that the owner lives, or gives the lease away.
func (o *Outbox) Beat(ctx context.Context, l outbox.Lease, resign bool) (outbox.Lease, error) {
	if l.Owner == "" {
		return outbox.Lease{}, outbox.ErrLeaseLost // nobody's lease is not held
	}
	query := beatLease
	if resign {
		query = "UPDATE `{p}outbox_meta` SET beat = LAST_INSERT_ID(beat + 1), lease_owner = '' WHERE one = 1 AND lease_owner = ? AND epoch = ?"
	}
	beat, swapped, err := o.swap(ctx, o.srv.db, query, []byte(l.Owner), l.Epoch)
	if err != nil {
		return outbox.Lease{}, explain("beat the relay's lease", err)
	}
	if !swapped {
		return outbox.Lease{}, fmt.Errorf("%w (beat the relay's lease)", outbox.ErrLeaseLost)
	}
	l.Beat = beat
	if resign {
		l.Owner = ""
	}
	return l, nil
}

// swap runs a compare-and-swap of the lease, and tells the new beat. It always changes the row it finds, so that it does not matter
// whether the driver counts rows found or rows changed.
func (o *Outbox) swap(ctx context.Context, db interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}, query string, args ...any) (beat int64, swapped bool, err error) {
	res, err := db.ExecContext(ctx, o.srv.cfg.sql(query), args...)
	if err != nil {
		return 0, false, err
	}
	n, err := res.RowsAffected()
	if err != nil || n == 0 {
		return 0, false, err
	}
	beat, err = res.LastInsertId()
	return beat, true, err
}
