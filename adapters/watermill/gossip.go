package watermill

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
)

// What processes tell each other, on one topic that all of them read.
//
//	put    a changed entry; a process numbers those it tells, and that order is kept
//	hello  a newcomer, or one that misses a number, asks for everything
//	part   an answer: some entries
//	end    the end of an answer: how many parts there are, and which numbers of which processes are in them
//	beat   the last number told, now and then, so that a lost one is missed
const (
	kindPut   = "put"
	kindHello = "hello"
	kindPart  = "part"
	kindEnd   = "end"
	kindBeat  = "beat"
)

const (
	metaGossip = "twostep-state"
	// forgetAfter a process that is silent is taken off the vector: it has ended.
	forgetAfter = time.Hour
)

// pace says how often a process looks and tells, by BrokerConfig.StateWait.
type pace struct {
	// look: numbers that are missing are looked for; those missing for gap are asked for.
	look, gap time.Duration
	// beat: the last number is told. gone: a process that is silent for so long has ended, and what nobody else has of it is lost.
	beat, gone time.Duration
}

func paceOf(wait time.Duration) pace {
	return pace{look: wait / 10, gap: wait / 2, beat: 5 * wait, gone: 20 * wait}
}

// gossip is a message between processes. An entry's value is the payload.
type gossip struct {
	Kind string `json:"kind"`
	Peer string `json:"peer"`
	// N of a put or a beat: the number; of a part: which one; of an end: how many parts.
	N int64 `json:"n,omitempty"`
	// To is the hello that is asked or answered, Answer the answer's own name.
	To     string `json:"to,omitempty"`
	Answer string `json:"answer,omitempty"`
	// Missing are processes whose numbers the asker lacks.
	Missing []string `json:"missing,omitempty"`
	Key     string   `json:"key,omitempty"`
	Deleted bool     `json:"deleted,omitempty"`
	Stamp   int64    `json:"stamp,omitempty"`
	Writer  string   `json:"writer,omitempty"`
}

func (g gossip) with(e entry) gossip {
	g.Key, g.Deleted, g.Stamp, g.Writer = e.key, e.deleted, e.stamp, e.writer
	return g
}

func (g gossip) entry(value []byte) entry {
	if value == nil {
		value = []byte{}
	}
	return entry{key: g.Key, value: value, deleted: g.Deleted, stamp: g.Stamp, writer: g.Writer}
}

// peer is another process.
type peer struct {
	// seen is the last of its numbers that was taken in, all before it included. early came before their turn.
	seen  int64
	early map[int64]entry
	// told is the highest number it is known to have told; missing since then.
	told    int64
	missing time.Time
	heardAt time.Time
}

// hello is a question that waits for its answer.
type hello struct {
	id      string
	began   time.Time
	answers map[string]*answer // by their names
}

type answer struct {
	parts  map[int64][]entry
	end    int64
	vector map[string]int64
}

func newPeerID() string { return uuid.NewString() }

// start begins to listen to the others, once.
func (r *replica) start() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.started || !r.b.life.begin() {
		return
	}
	r.started = true
	go func() {
		defer r.b.life.end()
		r.listen(r.b.life.ctx)
	}()
}

func (r *replica) name() string { return r.b.cfg.Name(r.b.cfg.Prefix + ".state") }

// publish tells the others, in order; done is called with the pub/sub's answer unless there is an error here.
func (r *replica) publish(ctx context.Context, g gossip, payload []byte, done func(error)) error {
	text, err := json.Marshal(g)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	w := message.NewMessage(uuid.NewString(), payload)
	w.Metadata[metaGossip] = escape(string(text))
	return r.b.lanes.put(ctx, r.name(), parcel{w, done})
}

// say is publish for what nobody waits for.
func (r *replica) say(ctx context.Context, g gossip, payload []byte) {
	failed := func(err error) {
		if err != nil && ctx.Err() == nil {
			r.b.log.Warn("the other processes were not told; they will ask", "kind", g.Kind, "error", err)
		}
	}
	if err := r.publish(ctx, g, payload, failed); err != nil {
		failed(err)
	}
}

func (r *replica) listen(ctx context.Context) {
	for ctx.Err() == nil {
		err := r.listenOnce(ctx)
		if ctx.Err() == nil {
			r.b.log.Warn("state: listening again", "reason", err)
			pause(ctx, againPauseMost)
		}
	}
}

func (r *replica) listenOnce(ctx context.Context) (err error) {
	if err := r.b.ensure(ctx, r.name()); err != nil {
		return err
	}
	sub, err := r.b.subs("")
	if err != nil {
		return fmt.Errorf("adapters/watermill: make a subscriber without a group: %w", err)
	}
	defer func() { err = errors.Join(err, sub.Close()) }()
	from, err := sub.Subscribe(ctx, r.name())
	if err != nil {
		return fmt.Errorf("adapters/watermill: subscribe to %s: %w", r.name(), err)
	}
	r.ask(ctx, time.Now())
	look, beat := time.NewTicker(r.pace.look), time.NewTicker(r.pace.beat)
	defer look.Stop()
	defer beat.Stop()
	for {
		select {
		case w, more := <-from:
			if !more {
				return errEnded
			}
			r.receive(ctx, w)
			w.Ack()
		case now := <-look.C:
			r.look(ctx, now)
		case <-beat.C:
			r.mu.Lock()
			g := gossip{Kind: kindBeat, Peer: r.self, N: r.n}
			r.mu.Unlock()
			r.say(ctx, g, nil)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ask asks the others for everything.
func (r *replica) ask(ctx context.Context, now time.Time) {
	r.mu.Lock()
	if r.hello == nil {
		r.hello = &hello{id: newPeerID(), began: now, answers: map[string]*answer{}}
	}
	r.askAt = now.Add(r.pace.gap << min(r.asked, 4))
	r.asked++
	g := gossip{Kind: kindHello, Peer: r.self, To: r.hello.id}
	for id, p := range r.peers {
		if p.told > p.seen {
			g.Missing = append(g.Missing, id)
		}
	}
	r.mu.Unlock()
	r.say(ctx, g, nil)
}

// look asks again for what is missing, and does without what nobody has.
func (r *replica) look(ctx context.Context, now time.Time) {
	r.mu.Lock()
	asks := !r.isCurrent()
	for id, p := range r.peers {
		switch {
		case now.Sub(p.heardAt) > forgetAfter:
			delete(r.peers, id)
		case p.told <= p.seen:
			p.missing = time.Time{}
		case p.missing.IsZero():
			p.missing = now
		case now.Sub(p.heardAt) > r.pace.gone:
			// What came after the missing ones is forgotten with them: it may build on them.
			p.seen, p.early = p.told, map[int64]entry{}
		case now.Sub(p.missing) > r.pace.gap:
			asks = true
		}
	}
	switch h := r.hello; {
	case h != nil && !r.isCurrent() && now.Sub(h.began) > r.b.cfg.StateWait:
		r.begin() // nobody is there who could answer
		asks = false
	case !asks:
		r.hello, r.asked = nil, 0
	case now.Before(r.askAt):
		asks = false
	}
	r.mu.Unlock()
	if asks {
		r.ask(ctx, now)
	}
}

func (r *replica) isCurrent() bool {
	select {
	case <-r.current:
		return true
	default:
		return false
	}
}

// begin makes the state current. Called with the lock held.
func (r *replica) begin() {
	r.hello = nil
	for _, p := range r.peers {
		r.catchUp(p)
	}
	close(r.current)
}

// catchUp takes in what came before its turn. Called with the lock held.
func (r *replica) catchUp(p *peer) {
	for n := range p.early {
		if n <= p.seen {
			delete(p.early, n)
		}
	}
	for {
		e, there := p.early[p.seen+1]
		if !there {
			return
		}
		p.seen++
		delete(p.early, p.seen)
		r.apply(e)
	}
}

func (r *replica) receive(ctx context.Context, w *message.Message) {
	var g gossip
	if err := json.Unmarshal([]byte(unescape(w.Metadata[metaGossip])), &g); err != nil || g.Peer == "" {
		r.b.log.Error("something else on the topic of the state: ignored", "topic", r.name(), "uuid", w.UUID)
		return
	}
	if g.Peer == r.self {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.peers[g.Peer]
	if p == nil {
		p = &peer{early: map[int64]entry{}}
		r.peers[g.Peer] = p
	}
	p.heardAt = time.Now()
	switch g.Kind {
	case kindPut:
		p.told = max(p.told, g.N)
		if g.N > p.seen {
			p.early[g.N] = g.entry(w.Payload)
			if p.seen > 0 || r.isCurrent() {
				r.catchUp(p)
			}
		}
	case kindBeat:
		p.told = max(p.told, g.N)
	case kindHello:
		r.answerSoon(ctx, g)
	case kindPart, kindEnd:
		r.answered(g, w.Payload)
	}
}
