package nats

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/twostep-mq/twostep/broker"
)

// maxSlots is how many publishes may wait for an acknowledgement on one connection.
const maxSlots = 1 << 16

// errConnectionLost: the connection broke before the acknowledgement came. The message may be stored.
var errConnectionLost = errors.New("broker/nats: connection lost before the broker acknowledged")

// errAckTimeout: no acknowledgement came in time. The message may be stored.
var errAckTimeout = errors.New("broker/nats: the broker did not acknowledge in time")

// publisher sends messages to streams and tells what became of each. It has its own subscription for acknowledgements:
// nats.go's futures cost a goroutine or a channel a message, retry (which reorders), and fail when too many wait.
type publisher struct {
	nc      *nats.Conn
	timeout time.Duration
	sub     *nats.Subscription
	prefix  string
	free    chan uint32 // slots nobody waits in
	stop    chan struct{}
	stopped sync.Once
	timer   sync.WaitGroup

	mu     sync.Mutex
	slots  []slot
	count  uint64 // of all messages ever sent
	closed bool
}

// slot is where one message waits for its acknowledgement.
type slot struct {
	token    uint64 // 0: nobody waits
	done     func(offset uint64, err error)
	deadline time.Time
	subject  string
	// connection counts reconnects: what was sent on an earlier connection is lost or unknown.
	connection uint64
}

func newPublisher(nc *nats.Conn, inFlight int, timeout time.Duration) (*publisher, error) {
	p := &publisher{
		nc: nc, timeout: timeout, prefix: nc.NewInbox() + ".",
		free: make(chan uint32, inFlight), stop: make(chan struct{}), slots: make([]slot, inFlight),
	}
	for i := range inFlight {
		p.free <- uint32(i)
	}
	sub, err := nc.Subscribe(p.prefix+"*", p.answered)
	if err != nil {
		return nil, err
	}
	if err := sub.SetPendingLimits(-1, -1); err != nil { // bounded by the slots
		return nil, err
	}
	p.sub = sub
	p.timer.Go(p.expire)
	return p, nil
}

// send writes one message and returns. done is called once, from another goroutine or, if the message could not even be
// written, from this one. It blocks while all slots wait. The error is that of ctx or broker.ErrClosed; done is then not called.
func (p *publisher) send(ctx context.Context, m *nats.Msg, done func(offset uint64, err error)) error {
	var i uint32
	select {
	case i = <-p.free:
	default:
		select {
		case i = <-p.free:
		case <-ctx.Done():
			return ctx.Err()
		case <-p.stop:
			return broker.ErrClosed
		}
	}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return broker.ErrClosed
	}
	p.count++
	token := p.count<<16 | uint64(i)
	p.slots[i] = slot{token: token, done: done, subject: m.Subject, deadline: time.Now().Add(p.timeout), connection: p.nc.Stats().Reconnects}
	p.mu.Unlock()
	var reply [80]byte
	m.Reply = string(strconv.AppendUint(append(reply[:0], p.prefix...), token, 36))
	if err := p.nc.PublishMsg(m); err != nil {
		if done := p.take(token); done != nil {
			done(0, connError(err))
		}
	}
	return nil
}

// take ends the wait of a message; nil if it has ended before.
func (p *publisher) take(token uint64) func(uint64, error) {
	i := token & (maxSlots - 1)
	p.mu.Lock()
	if token == 0 || i >= uint64(len(p.slots)) || p.slots[i].token != token {
		p.mu.Unlock()
		return nil
	}
	done := p.slots[i].done
	p.slots[i] = slot{}
	p.mu.Unlock()
	p.free <- uint32(i)
	return done
}

// answered gets every acknowledgement.
func (p *publisher) answered(m *nats.Msg) {
	token, err := strconv.ParseUint(strings.TrimPrefix(m.Subject, p.prefix), 36, 64)
	if err != nil {
		return
	}
	done := p.take(token)
	if done == nil {
		return // its time was over
	}
	done(parseAck(m))
}

// parseAck reads the server's answer to a publish.
func parseAck(m *nats.Msg) (offset uint64, err error) {
	if len(m.Data) == 0 {
		// "no responders": no stream listens on the subject, or JetStream is not up yet.
		return 0, broker.ErrNoTopic
	}
	if offset, ok := quickAck(m.Data); ok {
		return offset, nil
	}
	var answer struct {
		Error *jetstream.APIError `json:"error"`
		Seq   uint64              `json:"seq"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return 0, fmt.Errorf("broker/nats: the server's answer to a publish: %w", err)
	}
	if answer.Error != nil {
		return 0, refusal(answer.Error)
	}
	if answer.Seq == 0 {
		return 0, fmt.Errorf("broker/nats: the server's answer to a publish has no sequence: %.100q", m.Data)
	}
	return answer.Seq, nil
}

// quickAck reads the form that all but every answer has: {"stream":"name","seq":123…
func quickAck(data []byte) (uint64, bool) {
	rest, ok := bytes.CutPrefix(data, []byte(`{"stream":"`))
	if !ok {
		return 0, false
	}
	end := bytes.IndexByte(rest, '"')
	if end < 0 {
		return 0, false
	}
	rest, ok = bytes.CutPrefix(bytes.TrimLeft(rest[end+1:], ", "), []byte(`"seq":`))
	if !ok {
		return 0, false
	}
	var n uint64
	for i, c := range rest {
		if c < '0' || c > '9' {
			return n, n > 0 && i < 20
		}
		n = n*10 + uint64(c-'0')
	}
	return 0, false
}

// connectionLost ends the waits of all that was sent on a connection that is no more.
func (p *publisher) connectionLost() {
	now := p.nc.Stats().Reconnects
	connected := p.nc.IsConnected()
	p.end(errConnectionLost, func(s *slot) bool { return !connected || s.connection < now })
}

// expire ends waits that are too long.
func (p *publisher) expire() {
	ticker := time.NewTicker(max(p.timeout/10, 10*time.Millisecond))
	defer ticker.Stop()
	for {
		select {
		case now := <-ticker.C:
			if len(p.free) < cap(p.free) {
				p.end(errAckTimeout, func(s *slot) bool { return now.After(s.deadline) })
			}
		case <-p.stop:
			return
		}
	}
}

func (p *publisher) end(err error, which func(*slot) bool) {
	var tokens []uint64
	p.mu.Lock()
	for i := range p.slots {
		if p.slots[i].token != 0 && which(&p.slots[i]) {
			tokens = append(tokens, p.slots[i].token)
		}
	}
	p.mu.Unlock()
	for _, token := range tokens {
		if done := p.take(token); done != nil {
			done(0, err)
		}
	}
}

// close ends all waits with broker.ErrClosed.
func (p *publisher) close() {
	p.stopped.Do(func() {
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
		close(p.stop)
		p.timer.Wait()
		p.end(broker.ErrClosed, func(*slot) bool { return true })
	})
}
