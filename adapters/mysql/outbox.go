package mysql

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/orchestrator/txn"
	"github.com/twostep-mq/twostep/outbox"
)

// Outbox is the outbox in a MySQL or MariaDB database: outbox.Store for senders and outbox.RelayStore for the relay.
type Outbox struct {
	srv         *server
	insertRow   string
	insertRows  string
	insertGuard string
	relay       relayStatements

	mu sync.Mutex
	// counterAt is when the table's counter was read last; lockedAt, when a gap (by its first number) was found locked.
	counterAt time.Time
	lockedAt  map[int64]time.Time
}

var (
	_ outbox.Store      = (*Outbox)(nil)
	_ outbox.RelayStore = (*Outbox)(nil)
)

// NewOutbox uses the outbox in db, which Migrate has brought up to date.
func NewOutbox(ctx context.Context, db *sql.DB, cfg Config) (*Outbox, error) {
	srv, err := connect(ctx, db, cfg, Service)
	if err != nil {
		return nil, fmt.Errorf("outbox: %w", err)
	}
	o := &Outbox{
		srv: srv, insertRows: srv.cfg.sql(insertRows), insertRow: srv.cfg.sql(insertRows + oneRow), insertGuard: srv.cfg.sql(insertGuard),
		relay: newRelayStatements(srv), lockedAt: map[int64]time.Time{},
	}
	if srv.mariadb {
		o.insertRow = srv.cfg.sql(insertRows + oneRowInTransaction)
	}
	if err := o.checkNumbers(ctx, db); err != nil {
		return nil, fmt.Errorf("outbox: %w", err)
	}
	return o, nil
}

func (o *Outbox) checkNumbers(ctx context.Context, db querier) error {
	vars, err := variables(ctx, db)
	if err != nil {
		return explain("ask the server how it numbers rows", err)
	}
	return vars.checkNumbers()
}

// UUID reads the outbox's UUID, made by its migration.
func (o *Outbox) UUID(ctx context.Context) (string, error) {
	var uuid string
	if err := o.srv.db.QueryRowContext(ctx, o.srv.cfg.sql("SELECT uuid FROM `{p}outbox_meta`")).Scan(&uuid); err != nil {
		return "", explain("read the outbox's UUID", err)
	}
	return uuid, nil
}

const (
	insertRows = "INSERT INTO `{p}outbox` (id, topic, `key`, gid, content_type, headers, created_at, payload) VALUES "
	oneRow     = "(?, ?, ?, ?, ?, ?, ?, ?)"

	// MariaDB says whether there is a transaction. Where a deadlock ended it and the caller went on, the row would commit by itself; like
	// this it has no id, and is refused. (WHERE @@in_transaction = 1 would make it an INSERT … SELECT, which locks the table's counter.)
	oneRowInTransaction = "(IF(@@in_transaction = 1, ?, NULL), ?, ?, ?, ?, ?, ?, ?)"

	insertGuard = "INSERT INTO `{p}barrier` (gid, branch_id, op, barrier_id, outcome) VALUES (?, ?, ?, ?, ?)"
)

// Insert writes m as one row; with guard, first the barrier row of its gid, and outbox.ErrDuplicate if that was there.
func (o *Outbox) Insert(ctx context.Context, tx outbox.Execer, m *broker.Message, guard bool) error {
	if guard {
		gid := cmp.Or(m.GID, m.ID)
		_, err := tx.ExecContext(ctx, o.insertGuard, []byte(gid), txn.BranchRoot, txn.OpMsg, txn.BarrierFirst, string(txn.Success))
		if is(err, codeDuplicate) {
			return fmt.Errorf("%w %q", outbox.ErrDuplicate, gid)
		}
		if err != nil {
			return explain("insert barrier", err)
		}
	}
	headers, err := encodeHeaders(m.Headers)
	if err != nil {
		return fmt.Errorf("mysql: insert message: %w", err)
	}
	gid := m.GID
	if gid == m.ID {
		gid = ""
	}
	created := m.Time
	if created.IsZero() {
		created = time.Now()
	}
	args := []any{m.ID, m.Topic, []byte(m.Key), gid, []byte(m.ContentType), headers, created.UnixMilli(), blob(m.Payload)}
	if managed, ok := tx.(*managedTx); ok {
		args[len(args)-1] = slices.Clone(blob(m.Payload)) // the caller may use it again
		return explain("insert message", managed.later(ctx, o.insertRows, oneRow, len(m.Payload), args))
	}
	_, err = tx.ExecContext(ctx, o.insertRow, args...)
	if o.srv.mariadb && is(err, codeCannotBeNull) {
		return fmt.Errorf("%w: insert message: there is no open transaction (%w)", ErrEnded, err)
	}
	return explain("insert message", err)
}

// blob is what stands for bytes in a column that is never NULL.
func blob(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
