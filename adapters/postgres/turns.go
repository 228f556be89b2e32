package postgres

import (
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// turnsFor is how long batches of a subscription run alone after one has lost to a deadlock.
const turnsFor = 10 * time.Minute

// turns keeps batches apart that lock the same rows in different orders: those of a subscription without keys, which several services read. Each
// deadlock costs them the server's deadlock_timeout, a second by default; on 1,000 accounts four services did 60 messages a second where one does
// thousands. Batches share a lock; those of a service that has lost to a deadlock have it alone for a while. So four services meet three times at most,
// and those that never meet never wait.
type turns struct {
	mu    sync.Mutex
	until map[string]time.Time // by subscription
}

// Both are released by the end of the transaction. Who wants the lock alone waits a bounded time, lest one handler that hangs stops all others.
const (
	shareTurn = `SELECT pg_advisory_xact_lock_shared(hashtextextended('twostep turn ' || $1::text, 0))`
	takeTurn  = `SELECT pg_advisory_xact_lock(hashtextextended('twostep turn ' || $1::text, 0))`

	turnPatience = `SET LOCAL lock_timeout = '5s'`
	turnTaken    = `SET LOCAL lock_timeout TO DEFAULT`
)

// queue adds what a batch of the subscription has to wait for.
func (t *turns) queue(b *pgx.Batch, uid string) {
	if !t.alone(uid) {
		b.Queue(shareTurn, uid)
		return
	}
	b.Queue(turnPatience)
	b.Queue(takeTurn, uid)
	b.Queue(turnTaken)
}

func (t *turns) alone(uid string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return time.Now().Before(t.until[uid])
}

// lost: a batch of the subscription was the victim of a deadlock.
func (t *turns) lost(uid string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.until == nil {
		t.until = map[string]time.Time{}
	}
	t.until[uid] = time.Now().Add(turnsFor)
}

// waited: a batch has waited for its turn in vain. The next one does not.
func (t *turns) waited(uid string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.until, uid)
}
