package topics

import (
	"context"
	"errors"
	"time"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/orchestrator/txn"
	"github.com/twostep-mq/twostep/outbox"
)

var (
	// ErrTransactionLost: the transaction the handler ran in is not the one that holds the barrier rows any more: the handler
	// committed it with raw SQL, or swallowed an error that ended it. What it did may stand.
	ErrTransactionLost = errors.New("topics: the handler's transaction ended before the dispatcher committed it: do not use COMMIT or ROLLBACK in a handler, and return the database's errors")
	// ErrNotParked: there is no such parked message (any more).
	ErrNotParked = errors.New("topics: no such parked message")
	// ErrTryAgain: the database refused for now (a deadlock, a lock timeout, a serialization failure, busy). Nothing of the transaction
	// stands. Stores wrap it, around errors of the Tx they give to handlers too, as far as those pass through their hands.
	ErrTryAgain = errors.New("topics: the database asks to try again")
	// ErrConflict: somebody else changed it first; load and try again.
	ErrConflict = errors.New("topics: changed by somebody else")
)

// Store is a consumer's database: the barrier and the parked messages. The SQL adapters implement it.
type Store interface {
	// Begin opens a transaction for one batch. What it locked (Lock) or claimed, other processes' transactions wait for.
	Begin(ctx context.Context) (StoreTx, error)
	// Due lists parked messages of a subscription that may run at now: of each key the first, if it is waiting and due, or held (nothing
	// before it is left), in order of parking; messages without a key each by itself. With holdOnDead a dead letter of the key stands in the way,
	// else it is passed over. next is when to ask again at the latest (zero: nothing waits).
	Due(ctx context.Context, uid string, now time.Time, holdOnDead bool, limit int) (due []Parked, next time.Time, err error)
	// Parked lists parked messages in order of parking.
	Parked(ctx context.Context, q ParkedQuery) ([]Parked, error)
}

// RetryJudge is what a Store may offer besides: it tells errors that mean "try again" in a handler's error, where the handler got
// them from the driver directly (a Scan).
type RetryJudge interface {
	TryAgain(err error) bool
}

// StoreTx is one transaction on a consumer's database.
type StoreTx interface {
	// Tx is what a handler gets.
	Tx() outbox.Tx
	// Claim writes the barrier rows of messages for a subscription, as its first statement, with the outcome given. For each id it
	// returns what stood there before: empty (the row is ours now), or the stored outcome. ids are distinct. After it, the proof is
	// set up that Commit checks.
	Claim(ctx context.Context, uid string, ids []string, as txn.Outcome) ([]txn.Outcome, error)
	// Unclaim takes barrier rows back that this transaction wrote.
	Unclaim(ctx context.Context, uid string, ids []string) error
	// Claimed tells which ids have a barrier row.
	Claimed(ctx context.Context, uid string, ids []string) (map[string]bool, error)
	// ParkedKeys tells which keys have parked messages: with dead, dead letters count, too.
	ParkedKeys(ctx context.Context, uid string, keys []string, dead bool) (map[string]bool, error)
	// Park adds parked messages; their barrier rows get the outcome parked. Over a barrier row of another transaction it is asked to
	// park only where a handler may have committed that; a store on which no handler can (what it commits by itself is
	// undone) answers ErrConflict there.
	Park(ctx context.Context, ps []Parked) error
	// Lock reads one parked message for changing it; ErrNotParked if it is gone.
	Lock(ctx context.Context, uid, id string) (Parked, error)
	// Update writes State, Attempts, NextAt and Reason of a locked parked message.
	Update(ctx context.Context, p Parked) error
	// Settle deletes the parked message and gives its barrier row the outcome.
	Settle(ctx context.Context, uid, id string, as txn.Outcome) error
	// Commit proves that this still is the transaction that Claim or Lock ran in, and commits; ErrTransactionLost if not.
	Commit(ctx context.Context) error
	// Rollback gives up; after Commit it does nothing. ErrTransactionLost says that the transaction that Claim or Lock ran in had ended
	// before: a handler committed it, or the database ended it with an error.
	Rollback() error
}

// ParkedState says why a message is parked.
type ParkedState string

const (
	// ParkedWaiting: it failed or is suspect, and runs again at NextAt.
	ParkedWaiting ParkedState = "waiting"
	// ParkedHeld: an earlier message of its key is parked.
	ParkedHeld ParkedState = "held"
	// ParkedDead: it could not be executed; a dead letter, until it is replayed or dropped.
	ParkedDead ParkedState = "dead"
)

// Parked is a message kept on the consumer's side instead of executed.
type Parked struct {
	// Seq orders parked messages; the store gives it.
	Seq          int64
	Subscription string
	State        ParkedState
	Attempts     int
	NextAt       time.Time
	Reason       string
	ParkedAt     time.Time
	Message      broker.Message
}

// ParkedQuery selects parked messages; zero fields do not.
type ParkedQuery struct {
	Subscription string
	State        ParkedState
	ID           string
	After        int64 // Seq
	Limit        int   // 0: 100
}

// RegistryStore keeps the registry of its owner.
type RegistryStore interface {
	// Load reads everything; the owner's UUID was made by the migration.
	LoadRegistry(ctx context.Context) (Registry, error)
	// Apply writes a change in one transaction if the version still is from; ErrConflict if not.
	ApplyRegistry(ctx context.Context, from int64, c RegistryChange) error
}

// Registry is what the owner knows.
type Registry struct {
	Owner    string
	Version  int64
	Topics   []outbox.RegistryTopic
	Outboxes []RegistryOutbox
}

// RegistryOutbox is an outbox whose relay's report was merged.
type RegistryOutbox struct {
	UUID, Name string
	Forgotten  bool
}

// RegistryChange moves the registry to Version: every entry named is written as given; Subscriptions of Topics likewise.
type RegistryChange struct {
	Version  int64
	Topics   []outbox.RegistryTopic
	Outboxes []RegistryOutbox
}
