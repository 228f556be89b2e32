package outbox

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/twostep-mq/twostep/broker"
)

// Execer is the part of a transaction that writes.
type Execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// Transaction is what Publish takes: an open transaction of the outbox's database. Commit and Rollback are markers and
// never called; they keep *sql.DB, *sql.Conn and the like from compiling, whose inserts would commit by themselves.
// *sql.Tx, *sqlx.Tx, the *sql.Tx in a bun.Tx and ent's *Tx fit, and so does Tx; adapters/orm has GORM's.
type Transaction interface {
	Execer
	Commit() error
	Rollback() error
}

// Tx is the transaction that Transact and handlers are given. Its Commit and Rollback return ErrManaged: returning nil
// commits, returning an error rolls back.
type Tx interface {
	Transaction
	PrepareContext(ctx context.Context, query string) (*sql.Stmt, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

var (
	// ErrManaged is what Commit and Rollback of a Tx return.
	ErrManaged = errors.New("outbox: this transaction is committed by who began it: return nil to commit, an error to roll back")
	// ErrDuplicate: a message with this gid was published (or fenced) before. Roll the transaction back.
	ErrDuplicate = errors.New("outbox: duplicate gid")
	// ErrLeaseLost: another relay owns the outbox now.
	ErrLeaseLost = errors.New("outbox: relay lease lost")
	// ErrServerChanged: the database is not the one whose rows are in memory: a restart, a failover, a restore.
	ErrServerChanged = errors.New("outbox: database server changed")
	// ErrShortDelete: rows that were to be released were not there, or had other ids.
	ErrShortDelete = errors.New("outbox: rows to release were not there")
)

// Row is an outbox row.
type Row struct {
	Seq int64
	// Size of the payload in bytes, also where the payload was not read.
	Size int
	broker.Message
}

// Store is an outbox in a database, as its sender needs it. The SQL adapters implement it.
type Store interface {
	// UUID of the outbox, made by its migration.
	UUID(ctx context.Context) (string, error)
	// Insert writes m as one row; with guard, first the barrier row (gid, 00, msg, 01), and ErrDuplicate if that was there. It
	// reads nothing back.
	Insert(ctx context.Context, tx Execer, m *broker.Message, guard bool) error
	// Transact runs fn in a transaction. Concurrent calls may share one commit; each fails or succeeds alone. fn may run a second
	// time where the transaction it shared was lost through another's fault.
	Transact(ctx context.Context, fn func(Tx) error) error
}

// Lease says who relays an outbox.
type Lease struct {
	Owner string
	// Epoch is the fencing number: it grows with every change of the owner. Beat grows while the owner lives.
	Epoch, Beat int64
}

// Page is what one read of the outbox table saw.
type Page struct {
	// Rows in ascending order of Seq.
	Rows []Row
	// Server identifies the database server (and file) that answered. It differs after a restart, failover or restore that could
	// have another history.
	Server string
	// Counter is the highest row number the database has given out, if it says so without cost; else 0. When it goes back, numbers are used again.
	Counter int64
	// Mark is noted for gaps found by this read and given back in Gap.
	Mark string
	// Cut: the read stopped before its limit, behind PageBytes of payloads; what it has are the first rows of what was asked for.
	Cut bool
}

// PageBytes is about how many bytes of payloads a read brings: the row that reaches it is the last one, so there always is one.
const PageBytes = 8 << 20

// Gap is a run of row numbers below the scanned ones at which no row was seen: of open or rolled-back transactions.
type Gap struct {
	From, To int64 // both inclusive
	Age      time.Duration
	Mark     string
}

// Bits is one confirmer's word on the rows of an outbox: a bitmap over row numbers in the format of Roaring64.
type Bits struct {
	// Confirmer is "broker" or a subscription's uid.
	Confirmer string
	// Subscription is what the registry said of it; empty for the broker.
	Subscription RegistrySubscription
	// Bitmap: for the broker, a bit says "acknowledged, or no such row"; for a subscription "executed or parked".
	Bitmap []byte
	// Cursor is the highest row number scanned; the broker's alone.
	Cursor int64
	// Digest adds up the ids of the unreleased rows whose bit is set; a bitmap with another digest is of another history.
	Digest uint64
}

// Snapshot is what a relay starts from, besides the rows.
type Snapshot struct {
	UUID   string
	Head   RegistryHead
	Topics []RegistryTopic // as recorded, without subscriptions
	Bits   []Bits
	Server string
	// Recorded is the identity of the server that the last checkpoint was written on. If it is not Server, numbers below the cursor
	// at which no row is seen may have been given out again, to transactions that are still open. Empty: that cannot be here, since rows
	// become visible in the order of their numbers (SQLite).
	Recorded string
}

// Checkpoint is one release transaction: all of it or nothing.
type Checkpoint struct {
	// Server is the identity the relay's memory belongs to; another one is ErrServerChanged.
	Server string
	// Release lists rows to delete, by number and id; fewer found is ErrShortDelete.
	Release []RowID
	// Bits to write (the changed ones), by confirmer.
	Bits []Bits
	// Head and Topics to record, if not nil.
	Head   *RegistryHead
	Topics []RegistryTopic
}

// RowID names a row.
type RowID struct {
	Seq int64
	ID  string
}

// RelayStore is an outbox in a database, as its relay needs it.
type RelayStore interface {
	// Lease reads who relays.
	Lease(ctx context.Context) (Lease, error)
	// Take makes owner the relay if the lease still is seen (epoch and beat), with the next epoch; ErrLeaseLost if not.
	Take(ctx context.Context, seen Lease, owner string) (Lease, error)
	// Beat says that the owner lives, or gives the lease away (resign: the owner becomes empty); ErrLeaseLost if it is not the owner's.
	Beat(ctx context.Context, l Lease, resign bool) (Lease, error)
	// Load reads the outbox's identity and what relays before recorded.
	Load(ctx context.Context) (Snapshot, error)
	// Scan reads up to limit rows after a number; without payload where the caller only wants to know them.
	Scan(ctx context.Context, after int64, limit int, payload bool) (Page, error)
	// Read reads given rows, in ascending order as asked for; those that are gone are left out.
	Read(ctx context.Context, seqs []int64) (Page, error)
	// Probe reads what has appeared in gaps (in one snapshot) and tells which of them, or which parts, will stay empty for ever.
	Probe(ctx context.Context, gaps []Gap, limit int) (p Page, closed []Gap, err error)
	// Commit writes the checkpoint, if the lease still has l's owner and epoch (ErrLeaseLost). It counts as a beat.
	Commit(ctx context.Context, l Lease, c Checkpoint) (Lease, error)
}
