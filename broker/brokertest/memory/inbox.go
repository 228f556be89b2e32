package memory

import (
	"errors"
	"slices"
	"time"

	"github.com/twostep-mq/twostep/broker"
)

// ErrConnection is what calls return while a connection is down, and what an ambiguous Send returns.
var ErrConnection = errors.New("memory: the connection is lost")

// SendFault is what goes wrong with one call of Send.
type SendFault struct {
	// Err is what the caller is told; nil: nothing goes wrong but Twice. Stored says how many of the messages are stored all the
	// same (with the caller not told so).
	Err    error
	Stored int
	// Twice stores each message twice.
	Twice bool
}

type inbox struct {
	server *Server
	name   string
	queue  []letter
	out    *Batch
	// pinned is the one connection that reads, and pulled when it last did.
	pinned *Conn
	pulled time.Time
	next   uint64
}

type letter struct {
	offset uint64
	msg    *broker.Message
	seen   bool
}

func (s *Server) ensureInbox(name string) *inbox {
	in := s.inboxes[name]
	if in == nil {
		in = &inbox{server: s, name: name}
		s.inboxes[name] = in
	}
	return in
}

func (in *inbox) put(m *broker.Message) {
	in.next++
	copied := *m
	in.queue = append(in.queue, letter{offset: in.next, msg: &copied})
}

func (s *Server) send(name string, ms []*broker.Message) (int, error) {
	var fault SendFault
	if s.OnSend != nil {
		fault = s.OnSend(name, ms)
	}
	in := s.inboxes[name]
	if in == nil {
		return 0, broker.ErrNoInbox
	}
	n := len(ms)
	if fault.Err != nil {
		n = min(fault.Stored, len(ms))
	}
	for i, m := range ms[:n] {
		if s.cfg.InboxMost > 0 && len(in.queue) >= s.cfg.InboxMost {
			return i, broker.ErrFull
		}
		in.put(m)
		if fault.Twice {
			in.put(m)
		}
	}
	if fault.Err != nil {
		return 0, fault.Err
	}
	return n, nil
}

// pinTime is after what silence of its reader another one takes an inbox over.
const pinTime = 3 * time.Second

func (in *inbox) pull(c *Conn, most int) *Batch {
	now := in.server.cfg.Now()
	if p := in.pinned; p != c {
		if p != nil && !p.gone && now.Sub(in.pulled) < pinTime {
			return nil
		}
		if in.out != nil {
			in.giveBack(in.out)
		}
		in.pinned = c
	}
	in.pulled = now
	if in.out != nil {
		return nil
	}
	n := min(most, len(in.queue))
	if n == 0 {
		return nil
	}
	b := &Batch{server: in.server, conn: c, inbox: in}
	for i := range in.queue[:n] {
		l := &in.queue[i]
		m := *l.msg
		b.Deliveries = append(b.Deliveries, broker.Delivery{
			Message: &m, Position: broker.Position{Stream: in.name, Offset: l.offset}, Redelivered: l.seen, Stored: in.server.cfg.Now(),
		})
		l.seen = true
	}
	in.out = b
	return b
}

func (in *inbox) settle(b *Batch) {
	if in.out == b {
		in.out = nil
	}
	done := map[uint64]bool{}
	for _, d := range b.Deliveries {
		done[d.Position.Offset] = true
	}
	in.queue = slices.DeleteFunc(in.queue, func(l letter) bool { return done[l.offset] })
}

func (in *inbox) giveBack(b *Batch) {
	if in.out == b {
		in.out = nil
	}
}

// Waiting tells how many messages lie in an inbox.
func (s *Server) Waiting(name string) int {
	if in := s.inboxes[name]; in != nil {
		return len(in.queue)
	}
	return 0
}

// DropInbox loses the messages of an inbox for which drop says so.
func (s *Server) DropInbox(name string, drop func(*broker.Message) bool) {
	if in := s.inboxes[name]; in != nil && in.out == nil {
		in.queue = slices.DeleteFunc(in.queue, func(l letter) bool { return drop(l.msg) })
	}
}
