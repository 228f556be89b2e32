package topics_test

import (
	"fmt"

	"github.com/twostep-mq/twostep/broker"
	outboxmem "github.com/twostep-mq/twostep/outbox/outboxtest/memory"
)

// sender is a service's session that publishes: it takes a lock on a message's key before its row, and keeps it to the end of the
// transaction, so that what commits first is defined.
type sender struct {
	w    *world
	box  *box
	tx   *outboxmem.Tx
	sent []*message
}

func (w *world) stepSender() {
	b := w.boxes[w.rng.IntN(len(w.boxes))]
	s := b.senders[w.rng.IntN(len(b.senders))]
	switch {
	case s.tx == nil && len(w.messages) >= w.planned:
	case s.tx == nil:
		s.tx = b.store.Begin()
		s.publish()
	case len(s.sent) < 4 && w.rng.IntN(3) == 0:
		s.publish()
	case w.rng.IntN(6) == 0:
		s.rollback()
	default:
		s.commit()
	}
}

// publish inserts a row, unless another session holds its key.
func (s *sender) publish() {
	w, b := s.w, s.box
	t := w.topics[w.rng.IntN(len(w.topics))]
	key := ""
	if w.rng.IntN(5) > 0 {
		key = t.keys[w.rng.IntN(len(t.keys))]
		lock := t.name + "/" + key
		if holder := b.locks[lock]; holder != nil && holder != s {
			return
		}
		b.locks[lock] = s
	}
	m := &message{
		n: len(w.messages) + 1, id: w.newUUID(), box: b, topic: t.name, key: key, state: messageOpen,
		must: map[string]bool{}, executed: map[string]int{}, died: map[string]bool{},
	}
	if w.rng.IntN(25) == 0 {
		m.poison = true
		w.poisons++
	}
	seq, err := s.tx.Insert(&broker.Message{
		ID: m.id, Topic: m.topic, Key: key, ContentType: "text/plain", Payload: []byte(fmt.Sprint("payload of ", m.n)), Time: w.now,
	})
	if err != nil {
		s.forget(messageRolledBack)
		return
	}
	m.seq = seq
	if seq <= b.highest {
		w.reused++
	}
	b.highest = max(b.highest, seq)
	w.messages = append(w.messages, m)
	w.byID[m.id] = m
	s.sent = append(s.sent, m)
	w.log("sender: inserts %s", m)
}

func (s *sender) commit() {
	err := s.tx.Commit()
	if err != nil {
		s.w.log("sender: commit fails: %v", err)
		s.forget(messageRolledBack)
		return
	}
	for _, m := range s.sent {
		s.w.orders++
		m.order = s.w.orders
	}
	s.w.counts.messages += len(s.sent)
	s.forget(messageCommitted)
	s.w.owned(s.box)
	if s.w.rng.IntN(2) == 0 {
		s.box.ring()
	}
}

func (s *sender) rollback() {
	s.tx.Rollback()
	s.w.rollbacks++
	s.forget(messageRolledBack)
}

func (s *sender) forget(state messageState) {
	for _, m := range s.sent {
		m.state = state
		s.w.log("sender: %s", m)
	}
	for key, holder := range s.box.locks {
		if holder == s {
			delete(s.box.locks, key)
		}
	}
	s.tx, s.sent = nil, nil
}

// end ends what is open when the healing begins.
func (s *sender) end() {
	switch {
	case s.tx == nil:
	case s.w.rng.IntN(4) == 0:
		s.rollback()
	default:
		s.commit()
	}
}
