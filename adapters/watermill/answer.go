package watermill

import (
	"bytes"
	"context"
	"encoding/gob"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"time"
)

// partBytes is about how much of the state one part of an answer has.
const partBytes = 256 << 10

// answerSoon answers a hello unless somebody else does; who is missed answers in any case. Called with the lock held.
func (r *replica) answerSoon(ctx context.Context, g gossip) {
	if !r.isCurrent() {
		return
	}
	wait, missed := rand.N(r.pace.look), slices.Contains(g.Missing, r.self)
	if missed {
		wait = 0
	}
	if !r.b.life.begin() {
		return
	}
	time.AfterFunc(wait, func() {
		defer r.b.life.end()
		r.mu.Lock()
		done := r.heard[g.To]
		delete(r.heard, g.To)
		r.mu.Unlock()
		if !done || missed {
			r.answer(ctx, g.To)
		}
	})
}

// answer tells everything: entries in this process's order, and what they contain.
func (r *replica) answer(ctx context.Context, to string) {
	r.mu.Lock()
	vector, err := r.vector()
	r.mu.Unlock()
	if err != nil {
		return
	}
	es, _, _ := r.since(0, "") // at least what the vector says
	name, parts := newPeerID(), int64(0)
	for len(es) > 0 {
		n, size := 0, 0
		for n < len(es) && (n == 0 || size+len(es[n].value) < partBytes) {
			size += len(es[n].key) + len(es[n].value) + 100
			n++
		}
		payload, err := packEntries(es[:n])
		if err != nil {
			r.b.log.Error("state: the entries do not encode", "error", err)
			return
		}
		r.say(ctx, gossip{Kind: kindPart, Peer: r.self, To: to, Answer: name, N: parts}, payload)
		es = es[n:]
		parts++
	}
	r.say(ctx, gossip{Kind: kindEnd, Peer: r.self, To: to, Answer: name, N: parts}, vector)
}

// answered gathers an answer and takes it in when it is complete. Called with the lock held.
func (r *replica) answered(g gossip, payload []byte) {
	h := r.hello
	if h == nil || g.To != h.id {
		if g.Kind == kindEnd && len(r.heard) < 1000 {
			r.heard[g.To] = true
		}
		return
	}
	a := h.answers[g.Answer]
	if a == nil {
		a = &answer{parts: map[int64][]entry{}}
		h.answers[g.Answer] = a
	}
	var err error
	if g.Kind == kindPart {
		a.parts[g.N], err = unpackEntries(payload)
	} else {
		a.end, err = g.N, json.Unmarshal(payload, &a.vector)
	}
	if err != nil {
		r.b.log.Error("state: an answer is malformed: another is asked for", "error", err)
		delete(h.answers, g.Answer)
		return
	}
	if a.vector == nil || int64(len(a.parts)) < a.end {
		return
	}
	for n := range a.end {
		for _, e := range a.parts[n] {
			r.apply(e)
		}
	}
	for id, n := range a.vector {
		if id == r.self {
			continue
		}
		if r.peers[id] == nil {
			r.peers[id] = &peer{early: map[int64]entry{}, heardAt: time.Now()}
		}
		p := r.peers[id]
		p.seen, p.told = max(p.seen, n), max(p.told, n)
		r.catchUp(p)
	}
	if r.hello = nil; !r.isCurrent() {
		r.begin()
	}
}

// packed is an entry in a part.
type packed struct {
	Key     string
	Value   []byte
	Deleted bool
	Stamp   int64
	Writer  string
}

func packEntries(es []entry) ([]byte, error) {
	ps := make([]packed, len(es))
	for i, e := range es {
		ps[i] = packed{e.key, e.value, e.deleted, e.stamp, e.writer}
	}
	var b bytes.Buffer
	err := gob.NewEncoder(&b).Encode(ps)
	return b.Bytes(), err
}

func unpackEntries(payload []byte) ([]entry, error) {
	var ps []packed
	if err := gob.NewDecoder(bytes.NewReader(payload)).Decode(&ps); err != nil {
		return nil, err
	}
	es := make([]entry, len(ps))
	for i, p := range ps {
		es[i] = entry{key: p.Key, value: p.Value, deleted: p.Deleted, stamp: p.Stamp, writer: p.Writer}
		if es[i].value == nil {
			es[i].value = []byte{}
		}
	}
	return es, nil
}
