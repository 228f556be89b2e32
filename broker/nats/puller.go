package nats

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// Reasons for which a puller ends. Whoever uses it looks at the broker again and makes another one.
var (
	errReaderGone   = errors.New("broker/nats: the reader is gone from the broker")
	errReconnected  = errors.New("broker/nats: the connection was lost in between")
	errReaderSilent = errors.New("broker/nats: the broker forgot a pull request")
)

const (
	// pullExpires is how long the server keeps a pull request open; pullGrace after that it counts as forgotten.
	pullExpires = 10 * time.Second
	pullGrace   = 3 * time.Second
	// pullBytes bounds one pull request, and what waits in the queue before another is made. It is far above the largest
	// message.
	pullBytes = 8 << 20
)

// puller asks a consumer for messages and queues what comes, so that batches build up while a handler runs. It never has more
// than window messages asked for or queued. nats.go's own iterators give neither batches nor the pinned reader's
// hand-over.
type puller struct {
	nc     *nats.Conn
	next   string // API subject of pull requests
	pinned bool
	window int
	wake   chan struct{}

	mu    sync.Mutex
	sub   *nats.Subscription
	inbox string
	queue []pulled
	bytes int
	// asked counts messages asked for that have neither come nor been given back by the server.
	asked int
	// request numbers pull requests; answers to those before valid are ignored.
	request, valid uint64
	heard          time.Time
	// pin is the server's word that this reader is the one; fresh says that it is new.
	pin    string
	fresh  bool
	idle   bool // the server said that there is nothing more for now
	broken error
}

// pulled is a message with what its reply subject says.
type pulled struct {
	*nats.Msg
	delivered
}

// pullRequest is the body of a request to CONSUMER.MSG.NEXT.
type pullRequest struct {
	Batch    int           `json:"batch"`
	MaxBytes int           `json:"max_bytes,omitempty"`
	Expires  time.Duration `json:"expires,omitempty"`
	NoWait   bool          `json:"no_wait,omitempty"`
	Beat     time.Duration `json:"idle_heartbeat,omitempty"`
	Group    string        `json:"group,omitempty"`
	Pin      string        `json:"id,omitempty"`
}

func newPuller(nc *nats.Conn, stream, consumer string, pinned bool, window int) *puller {
	return &puller{
		nc: nc, next: "$JS.API.CONSUMER.MSG.NEXT." + stream + "." + consumer,
		pinned: pinned, window: window, wake: make(chan struct{}, 1),
	}
}

// open subscribes to a new inbox and asks for messages. Called again, it first leaves the one before with all that was
// queued: when it returns, nothing that was sent there can come any more. The pin is kept.
func (p *puller) open() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leave()
	p.inbox = p.nc.NewInbox()
	inbox := p.inbox
	sub, err := p.nc.Subscribe(inbox+".*", func(m *nats.Msg) { p.receive(inbox, m) })
	if err != nil {
		return connError(err)
	}
	if err := sub.SetPendingLimits(-1, -1); err != nil { // bounded by the window
		return connError(err)
	}
	p.sub = sub
	p.heard = time.Now()
	return p.pull()
}

// leave is called with the lock held.
func (p *puller) leave() {
	if p.sub != nil {
		// An error means that the connection is closed, and with it the subscription.
		_ = p.sub.Unsubscribe()
		p.sub = nil
	}
	p.queue, p.bytes, p.asked, p.inbox, p.idle = nil, 0, 0, "", false
	p.valid = p.request + 1
}

// close leaves the inbox; drop returns what was queued.
func (p *puller) close() (drop []pulled) {
	p.mu.Lock()
	defer p.mu.Unlock()
	drop = p.queue
	p.leave()
	return drop
}

// pull asks for as many as the window has room for, if that is half of it or more. Called with the lock held.
func (p *puller) pull() error {
	room := p.window - p.asked - len(p.queue)
	if p.sub == nil || p.broken != nil || room < (p.window+1)/2 || p.bytes > pullBytes {
		return nil
	}
	req := pullRequest{Batch: room, MaxBytes: pullBytes, Expires: pullExpires, Beat: pullExpires / 4}
	if p.pinned {
		req.Group, req.Pin = pinGroup, p.pin
	}
	p.request++
	if err := p.post(strconv.FormatUint(p.request, 10), req); err != nil {
		return err
	}
	p.asked += room
	return nil
}

func (p *puller) post(token string, req pullRequest) error {
	body, err := json.Marshal(req)
	if err != nil {
		return fmt.Errorf("broker/nats: pull request: %w", err)
	}
	return connError(p.nc.PublishRequest(p.next, p.inbox+"."+token, body))
}

// keepPin tells the server that the pinned reader lives, while it has no need to ask for messages. A request that allows one
// byte is never answered with a message.
func (p *puller) keepPin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pin == "" || p.sub == nil || p.broken != nil {
		return
	}
	if err := p.post("pin", pullRequest{Batch: 1, MaxBytes: 1, NoWait: true, Group: pinGroup, Pin: p.pin}); err != nil {
		p.fail(err)
	}
}

// checkSilence notices that the server has forgotten a pull request, as it may when it was restarted in between.
func (p *puller) checkSilence() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.asked > 0 && p.broken == nil && time.Since(p.heard) > pullExpires+pullGrace {
		p.fail(errReaderSilent)
	}
}

// receive gets messages and status answers.
func (p *puller) receive(inbox string, m *nats.Msg) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if inbox != p.inbox {
		return
	}
	p.heard = time.Now()
	if d, ok := parseReply(m.Reply); ok {
		if pin := m.Header.Get("Nats-Pin-Id"); pin != "" && pin != p.pin {
			p.pin, p.fresh = pin, true
		}
		p.queue = append(p.queue, pulled{m, d})
		p.bytes += len(m.Data)
		p.asked = max(p.asked-1, 0)
		p.idle = d.pending == 0
		p.ring()
		return
	}
	p.status(strings.TrimPrefix(m.Subject, inbox+"."), m.Header)
}

// status handles an answer that is not a message. Called with the lock held.
func (p *puller) status(token string, h nats.Header) {
	code, description := h.Get("Status"), strings.ToLower(h.Get("Description"))
	if token == "pin" {
		if code == "423" {
			p.unpinned()
		}
		if code == "503" {
			p.fail(errReaderGone)
		}
		return
	}
	number, err := strconv.ParseUint(token, 10, 64)
	if err != nil || number < p.valid {
		return
	}
	if left, err := strconv.Atoi(h.Get("Nats-Pending-Messages")); err == nil {
		p.asked = max(p.asked-left, 0)
	}
	switch code {
	case "100":
		p.idle = true
		p.ring()
		return
	case "423":
		p.unpinned()
		return
	case "404", "408":
	case "409":
		switch {
		case strings.Contains(description, "maxbytes"), strings.Contains(description, "batch completed"):
		default: // consumer deleted, leadership change, server shutdown, …
			p.fail(fmt.Errorf("%w: %s", errReaderGone, description))
			return
		}
	default: // 503: nothing listens; 400: another kind of consumer now
		p.fail(fmt.Errorf("%w: status %s %s", errReaderGone, code, description))
		return
	}
	if err := p.pull(); err != nil {
		p.fail(err)
	}
}

// unpinned: another reader is the one now, or was. What is queued is still ours to finish; ask again as anybody.
func (p *puller) unpinned() {
	p.pin, p.asked, p.valid = "", 0, p.request+1
	if err := p.pull(); err != nil {
		p.fail(err)
	}
}

// fail is called with the lock held.
func (p *puller) fail(err error) {
	if p.broken == nil {
		p.broken = err
	}
	p.ring()
}

// interrupt ends the puller from outside.
func (p *puller) interrupt(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fail(err)
}

// failure tells why the puller ended, if it did.
func (p *puller) failure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.broken
}

// resume goes on after an interruption, with what is queued.
func (p *puller) resume() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.broken, p.asked, p.valid, p.heard = nil, 0, p.request+1, time.Now()
	return p.pull()
}

func (p *puller) ring() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// take returns what is queued, up to limit messages, and asks for more. It returns nothing while the pin is fresh.
func (p *puller) take(limit int) (batch []pulled, fresh bool, broken error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken != nil || p.fresh || len(p.queue) == 0 {
		return nil, p.fresh, p.broken
	}
	n := min(limit, len(p.queue))
	batch = p.queue[:n:n]
	p.queue = p.queue[n:]
	if len(p.queue) == 0 {
		p.queue = nil
	}
	for _, m := range batch {
		p.bytes -= len(m.Data)
	}
	if err := p.pull(); err != nil {
		p.fail(err)
	}
	return batch, false, nil
}

// first returns the first message of the queue, and accepts a fresh pin.
func (p *puller) first() (pulled, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fresh = false
	if len(p.queue) == 0 {
		return pulled{}, false
	}
	return p.queue[0], true
}

// replies lists the reply subjects of what is queued.
func (p *puller) replies(to []string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.queue {
		to = append(to, m.Reply)
	}
	return to
}

// drained reports that everything that was there has been taken.
func (p *puller) drained() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.idle && len(p.queue) == 0
}

func (p *puller) isPinned() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pin != ""
}
