// Package memory is an outbox in memory, for simulations: rows get their number when they are inserted and become visible when
// their transaction commits, in any order, as in a database. A test may fail the database over, restore it to an older state, and
// let it hand numbers out again.
package memory

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/twostep-mq/twostep/outbox"
)

// gapAge is when a gap may be closed at the earliest.
const gapAge = 10 * time.Second

// Config of a Store. The zero value works.
type Config struct {
	// UUID of the outbox.
	UUID string
	// Counted: the database tells its highest row number, as SQLite does.
	Counted bool
	// GapAge is when a gap may be closed at the earliest; 0: 10 s.
	GapAge time.Duration
	// PageBytes of payloads fill a page; 0: no number does.
	PageBytes int
}

// Store is an outbox. It is an outbox.RelayStore; senders use Begin.
type Store struct {
	cfg Config

	mu     sync.Mutex
	server int
	// recorded is the identity the last checkpoint was written under.
	recorded string
	counter  int64
	rows     []*outbox.Row // visible, by number
	lease    outbox.Lease
	head     outbox.RegistryHead
	topics   []outbox.RegistryTopic
	bits     map[string]outbox.Bits
	// xid is the next transaction's number; open are those that have written and not ended.
	xid  int64
	open map[int64]*Tx
	// commits counts checkpoints.
	commits int
}

// New makes an empty outbox.
func New(cfg Config) *Store {
	if cfg.GapAge == 0 {
		cfg.GapAge = gapAge
	}
	return &Store{cfg: cfg, server: 1, bits: map[string]outbox.Bits{}, xid: 1, open: map[int64]*Tx{}}
}

// Backup is a state to go back to. It holds no open transactions.
type Backup struct {
	rows    []*outbox.Row
	lease   outbox.Lease
	head    outbox.RegistryHead
	topics  []outbox.RegistryTopic
	bits    map[string]outbox.Bits
	counter int64
	// recorded: a backup is of a server, too.
	recorded string
}

// Backup copies the committed state.
func (s *Store) Backup() Backup {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Backup{slices.Clone(s.rows), s.lease, s.head, slices.Clone(s.topics), maps.Clone(s.bits), s.counter, s.recorded}
}

// Restore puts an older state in place of this one, on a server with another identity. It tells which rows were committed
// since and are lost: released ones come back.
func (s *Store) Restore(b Backup) (lost []outbox.RowID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	there := map[outbox.RowID]bool{}
	for _, r := range b.rows {
		there[outbox.RowID{Seq: r.Seq, ID: r.ID}] = true
	}
	for _, r := range s.rows {
		if id := (outbox.RowID{Seq: r.Seq, ID: r.ID}); !there[id] {
			lost = append(lost, id)
		}
	}
	s.endOpen()
	s.rows, s.lease, s.head = slices.Clone(b.rows), b.lease, b.head
	s.topics, s.bits, s.counter = slices.Clone(b.topics), maps.Clone(b.bits), b.counter
	s.recorded = b.recorded
	s.server++
	return lost
}

// Failover gives the service to a replica that has everything committed and nothing else: open transactions end, and numbers
// above the highest visible row are handed out again.
func (s *Store) Failover() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endOpen()
	s.server++
	s.counter = 0
	if n := len(s.rows); n > 0 {
		s.counter = s.rows[n-1].Seq
	}
}

// Truncate empties the table; numbers begin at 1 again. The server stays the same.
func (s *Store) Truncate() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endOpen()
	s.rows, s.counter = nil, 0
}

func (s *Store) endOpen() {
	for _, tx := range s.open {
		tx.over = true
	}
	clear(s.open)
}

// Rows returns the visible rows' names, by number.
func (s *Store) Rows() []outbox.RowID {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]outbox.RowID, len(s.rows))
	for i, r := range s.rows {
		out[i] = outbox.RowID{Seq: r.Seq, ID: r.ID}
	}
	return out
}

// Row returns a visible row, or nil.
func (s *Store) Row(seq int64) *outbox.Row {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i, ok := s.find(seq); ok {
		r := *s.rows[i]
		return &r
	}
	return nil
}

// Owner tells who holds the lease.
func (s *Store) Owner() outbox.Lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lease
}

// Recorded returns what the outbox has recorded of its confirmers.
func (s *Store) Recorded() map[string]outbox.Bits {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.bits)
}

// Commits counts the checkpoints that were written.
func (s *Store) Commits() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.commits
}

// find returns where the row with seq is or would be.
func (s *Store) find(seq int64) (int, bool) {
	i := sort.Search(len(s.rows), func(i int) bool { return s.rows[i].Seq >= seq })
	return i, i < len(s.rows) && s.rows[i].Seq == seq
}

func (s *Store) identity() string { return fmt.Sprintf("server-%d", s.server) }

func (s *Store) page() outbox.Page {
	p := outbox.Page{Server: s.identity(), Mark: fmt.Sprint(s.xid)}
	if s.cfg.Counted {
		p.Counter = s.counter
	}
	return p
}

// Lease implements outbox.RelayStore.
func (s *Store) Lease(ctx context.Context) (outbox.Lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lease, ctx.Err()
}

// Take implements outbox.RelayStore.
func (s *Store) Take(ctx context.Context, seen outbox.Lease, owner string) (outbox.Lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return outbox.Lease{}, err
	}
	if s.lease.Epoch != seen.Epoch || s.lease.Beat != seen.Beat {
		return outbox.Lease{}, outbox.ErrLeaseLost
	}
	s.lease = outbox.Lease{Owner: owner, Epoch: seen.Epoch + 1, Beat: seen.Beat + 1}
	return s.lease, nil
}

// Beat implements outbox.RelayStore.
func (s *Store) Beat(ctx context.Context, l outbox.Lease, resign bool) (outbox.Lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.owned(ctx, l); err != nil {
		return outbox.Lease{}, err
	}
	s.lease.Beat++
	if resign {
		s.lease.Owner = ""
	}
	return s.lease, nil
}

func (s *Store) owned(ctx context.Context, l outbox.Lease) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.lease.Owner != l.Owner || s.lease.Epoch != l.Epoch {
		return outbox.ErrLeaseLost
	}
	return nil
}

// Load implements outbox.RelayStore.
func (s *Store) Load(ctx context.Context) (outbox.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return outbox.Snapshot{}, err
	}
	snap := outbox.Snapshot{UUID: s.cfg.UUID, Head: s.head, Topics: slices.Clone(s.topics), Server: s.identity(), Recorded: s.recorded}
	for _, name := range slices.Sorted(maps.Keys(s.bits)) {
		snap.Bits = append(snap.Bits, s.bits[name])
	}
	return snap, nil
}

// Commit implements outbox.RelayStore.
func (s *Store) Commit(ctx context.Context, l outbox.Lease, c outbox.Checkpoint) (outbox.Lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.owned(ctx, l); err != nil {
		return outbox.Lease{}, err
	}
	if c.Server != s.identity() {
		return outbox.Lease{}, outbox.ErrServerChanged
	}
	released := make(map[int64]bool, len(c.Release))
	for _, id := range c.Release {
		i, ok := s.find(id.Seq)
		if !ok || s.rows[i].ID != id.ID {
			return outbox.Lease{}, fmt.Errorf("%w: row %d", outbox.ErrShortDelete, id.Seq)
		}
		released[id.Seq] = true
	}
	if len(released) > 0 {
		s.rows = slices.DeleteFunc(s.rows, func(r *outbox.Row) bool { return released[r.Seq] })
	}
	for _, b := range c.Bits {
		s.bits[b.Confirmer] = b
	}
	if c.Head != nil {
		s.head, s.topics = *c.Head, slices.Clone(c.Topics)
	}
	s.recorded = s.identity()
	s.lease.Beat++
	s.commits++
	return s.lease, nil
}
