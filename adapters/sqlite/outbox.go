package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/orchestrator/txn"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/outbox/storage"
)

// Outbox is the outbox in an SQLite database: outbox.Store for senders and outbox.RelayStore for the relay.
type Outbox struct {
	db    *sql.DB
	drv   *fileDriver
	group *groupCommit
}

var (
	_ outbox.Store      = (*Outbox)(nil)
	_ outbox.RelayStore = (*Outbox)(nil)
)

// NewOutbox uses the outbox in db, which Open has opened and Migrate has brought up to date.
func NewOutbox(ctx context.Context, db *sql.DB) (*Outbox, error) {
	drv, err := checkTables(ctx, db, Service)
	if err != nil {
		return nil, fmt.Errorf("outbox: %w", err)
	}
	return &Outbox{db: db, drv: drv, group: newGroupCommit(db, drv)}, nil
}

// UUID reads the outbox's UUID, made by its migration.
func (o *Outbox) UUID(ctx context.Context) (string, error) {
	var uuid string
	if err := o.db.QueryRowContext(ctx, `SELECT uuid FROM twostep_outbox_meta`).Scan(&uuid); err != nil {
		return "", explain("read the outbox's UUID", o.drv.path, err)
	}
	return uuid, nil
}

const (
	insertRow = `INSERT INTO twostep_outbox (id, topic, "key", gid, content_type, headers, created_at, payload) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`

	insertGuard = `INSERT INTO twostep_barrier (gid, branch_id, op, barrier_id, outcome) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (gid, branch_id, op, barrier_id) DO NOTHING`
)

// Insert writes m as one row; with guard, first the barrier row of its gid, and outbox.ErrDuplicate if that was there.
func (o *Outbox) Insert(ctx context.Context, tx outbox.Execer, m *broker.Message, guard bool) error {
	// The statements are short, and an interrupted write would roll back the caller's transaction.
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	if guard {
		if err := o.insertGuard(ctx, tx, cmp.Or(m.GID, m.ID)); err != nil {
			return err
		}
	}
	headers, err := storage.EncodeHeaders(m.Headers)
	if err != nil {
		return fmt.Errorf("sqlite: insert message: %w", err)
	}
	gid := m.GID
	if gid == m.ID {
		gid = ""
	}
	created := m.Time
	if created.IsZero() {
		created = time.Now()
	}
	payload := m.Payload
	if payload == nil {
		payload = []byte{} // nil would be NULL
	}
	_, err = tx.ExecContext(ctx, insertRow, m.ID, m.Topic, m.Key, gid, m.ContentType, headers, created.UnixMilli(), payload)
	return explain("insert message", o.drv.path, err)
}

func (o *Outbox) insertGuard(ctx context.Context, tx outbox.Execer, gid string) error {
	res, err := tx.ExecContext(ctx, insertGuard, gid, txn.BranchRoot, txn.OpMsg, txn.BarrierFirst, string(txn.Success))
	if err != nil {
		return explain("insert barrier", o.drv.path, err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return explain("insert barrier", o.drv.path, err)
	}
	if n == 0 {
		return fmt.Errorf("%w %q", outbox.ErrDuplicate, gid)
	}
	return nil
}
