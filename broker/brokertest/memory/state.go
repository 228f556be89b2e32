package memory

import (
	"strings"

	"github.com/twostep-mq/twostep/broker"
)

// state is the last value per key, in the order of writing.
type state struct {
	lives   int // grows with every wipe
	rev     int64
	entries map[string]stateEntry
}

type stateEntry struct {
	rev   int64
	value []byte // nil: deleted
}

func (s *state) wipe() {
	s.lives++
	s.entries = map[string]stateEntry{}
}

func (s *state) put(key string, value []byte) {
	s.rev++
	s.entries[key] = stateEntry{rev: s.rev, value: value}
}

// Watcher sees the state's changes one at a time, when Next is called.
type Watcher struct {
	conn   *Conn
	prefix string
	lives  int
	seen   int64
	// until is the revision up to which entries belong to what was there at first; current: that was said.
	until   int64
	current bool
}

// Watch begins a watch of all keys with the prefix.
func (c *Conn) Watch(prefix string) *Watcher {
	s := &c.server.state
	return &Watcher{conn: c, prefix: prefix, lives: s.lives, until: s.rev}
}

// Next is the next event, if there is one now.
func (w *Watcher) Next() (ev broker.StateEvent, ok bool) {
	s := &w.conn.server.state
	if w.conn.down || w.conn.gone {
		return ev, false
	}
	if w.lives != s.lives {
		w.lives, w.seen, w.until, w.current = s.lives, 0, s.rev, false
		return broker.StateEvent{Reset: true}, true
	}
	key, entry := s.after(w.seen, w.prefix)
	if !w.current && (key == "" || entry.rev > w.until) {
		w.current = true
		return broker.StateEvent{Current: true}, true
	}
	if key == "" {
		return ev, false
	}
	first := !w.current
	w.seen = entry.rev
	if first && entry.value == nil {
		return w.Next()
	}
	return broker.StateEvent{Key: key, Value: entry.value}, true
}

func (s *state) after(rev int64, prefix string) (key string, entry stateEntry) {
	for k, e := range s.entries {
		if e.rev > rev && strings.HasPrefix(k, prefix) && (key == "" || e.rev < entry.rev) {
			key, entry = k, e
		}
	}
	return key, entry
}

// Value reads an entry of the state; nil: there is none.
func (s *Server) Value(key string) []byte { return s.state.entries[key].value }
