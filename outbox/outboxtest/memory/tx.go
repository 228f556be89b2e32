package memory

import (
	"errors"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/outbox"
)

// ErrEnded is what a transaction returns that was committed or rolled back, or was open when the database failed over.
var ErrEnded = errors.New("memory: the transaction has ended")

// Tx is a sender's transaction.
type Tx struct {
	store *Store
	xid   int64
	rows  []*outbox.Row
	over  bool
}

// Begin opens a transaction. It takes part in the closing of gaps from its first insert on.
func (s *Store) Begin() *Tx { return &Tx{store: s} }

// Insert writes m as a row and returns its number. The row is invisible until Commit.
func (tx *Tx) Insert(m *broker.Message) (seq int64, err error) {
	s := tx.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if tx.over {
		return 0, ErrEnded
	}
	if tx.xid == 0 {
		tx.xid = s.xid
		s.xid++
		s.open[tx.xid] = tx
	}
	s.counter++
	row := &outbox.Row{Seq: s.counter, Message: *m}
	tx.rows = append(tx.rows, row)
	return row.Seq, nil
}

// Commit makes the rows visible.
func (tx *Tx) Commit() error {
	s := tx.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if tx.over {
		return ErrEnded
	}
	tx.end()
	for _, row := range tx.rows {
		i, there := s.find(row.Seq)
		if there {
			return errors.New("memory: row number used twice")
		}
		if i == len(s.rows) {
			s.rows = append(s.rows, row)
			continue
		}
		s.rows = append(s.rows[:i], append([]*outbox.Row{row}, s.rows[i:]...)...)
	}
	return nil
}

// Rollback leaves nothing but unused row numbers.
func (tx *Tx) Rollback() {
	s := tx.store
	s.mu.Lock()
	defer s.mu.Unlock()
	tx.end()
}

// Over reports whether the transaction has ended.
func (tx *Tx) Over() bool { return tx.over }

func (tx *Tx) end() {
	tx.over = true
	delete(tx.store.open, tx.xid)
}
