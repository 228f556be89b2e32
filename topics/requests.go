package topics

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/twostep-mq/twostep/orchestrator/txn"
)

// Requests about parked messages, answered under outbox.SubscriptionInbox(uid) by a process that runs the subscription. Both sides are JSON.

// ParkedOp is what is asked for.
type ParkedOp string

const (
	// ParkedList lists parked messages without payloads.
	ParkedList ParkedOp = "list"
	// ParkedShow shows one, with headers and payload.
	ParkedShow ParkedOp = "show"
	// ParkedReplay lets a dead letter run again at once, with all its attempts; a waiting message runs at once.
	ParkedReplay ParkedOp = "replay"
	// ParkedDrop gives a parked message up for good; its barrier row stays, so that it never runs.
	ParkedDrop ParkedOp = "drop"
)

// Codes of ParkedReply.
const (
	ParkedCodeInvalid  = "invalid"
	ParkedCodeNotFound = "not_found"
	ParkedCodeConflict = "conflict"
	ParkedCodeInternal = "internal"
)

const (
	// MaxParkedPayload is how much of a payload one answer carries, in bytes; ask for the rest with Offset.
	MaxParkedPayload = 500_000
	// maxParkedReply bounds the listing in an answer, in bytes of JSON.
	maxParkedReply     = 700_000
	defaultParkedLimit = 100
	maxParkedLimit     = 1000
)

// ParkedRequest asks for parked messages or changes one.
type ParkedRequest struct {
	Op ParkedOp `json:"op"`
	// ID of the message; for list optional.
	ID string `json:"id,omitempty"`
	// State, After (a Seq) and Limit (0: 100, at most 1,000) select what is listed.
	State ParkedState `json:"state,omitempty"`
	After int64       `json:"after,omitempty"`
	Limit int         `json:"limit,omitempty"`
	// Offset into the payload that is shown.
	Offset int `json:"offset,omitempty"`
}

// ParkedReply answers a ParkedRequest.
type ParkedReply struct {
	// Parked in order of parking. After a replay it is the message as it is now.
	Parked []ParkedInfo `json:"parked"`
	// More: ask again with After set to the last Seq.
	More bool `json:"more,omitempty"`
	// Error and Code (invalid, not_found, conflict, internal), if it did not work.
	Error string `json:"error,omitempty"`
	Code  string `json:"code,omitempty"`
}

// ParkedInfo is a parked message as it is shown. Times are Unix milliseconds.
type ParkedInfo struct {
	Seq          int64       `json:"seq"`
	ID           string      `json:"id"`
	GID          string      `json:"gid"`
	Topic        string      `json:"topic"`
	Subscription string      `json:"subscription"`
	UID          string      `json:"uid"`
	Key          string      `json:"key"`
	State        ParkedState `json:"state"`
	Attempts     int         `json:"attempts"`
	Reason       string      `json:"reason"`
	NextAt       int64       `json:"next_at_ms,omitempty"`
	ParkedAt     int64       `json:"parked_at_ms"`
	Outbox       string      `json:"outbox,omitempty"`
	OutboxSeq    int64       `json:"outbox_seq,omitempty"`
	ContentType  string      `json:"content_type"`
	// Size of the payload in bytes.
	Size int `json:"size"`
	// Headers and Payload (from Offset on, at most MaxParkedPayload bytes) are in show alone.
	Headers map[string]string `json:"headers,omitempty"`
	Payload []byte            `json:"payload,omitempty"`
	Offset  int               `json:"offset,omitempty"`
}

// answer answers one request; it never fails but in what it answers.
func (d *dispatcher) answer(ctx context.Context, body []byte) []byte {
	var q ParkedRequest
	reply := ParkedReply{}
	if err := json.Unmarshal(body, &q); err != nil {
		reply.Code, reply.Error = ParkedCodeInvalid, "request is no JSON of the expected form: "+err.Error()
	} else {
		reply = d.parkedReply(ctx, q)
	}
	if reply.Parked == nil {
		reply.Parked = []ParkedInfo{}
	}
	out, err := json.Marshal(reply)
	if err != nil {
		d.log.Error("parked request: answer", "error", err)
		return []byte(`{"parked":[],"code":"` + ParkedCodeInternal + `","error":"the answer could not be encoded"}`)
	}
	return out
}

func (d *dispatcher) parkedReply(ctx context.Context, q ParkedRequest) ParkedReply {
	if q.Op != ParkedList && q.ID == "" {
		return ParkedReply{Code: ParkedCodeInvalid, Error: fmt.Sprintf("%s needs the id of a message", q.Op)}
	}
	var reply ParkedReply
	var err error
	switch q.Op {
	case ParkedList:
		reply, err = d.listParked(ctx, q)
	case ParkedShow:
		reply, err = d.showParked(ctx, q)
	case ParkedReplay:
		reply, err = d.changeParked(ctx, q.ID, d.replay)
	case ParkedDrop:
		reply, err = d.changeParked(ctx, q.ID, d.drop)
	default:
		return ParkedReply{Code: ParkedCodeInvalid, Error: fmt.Sprintf("unknown op %q: use list, show, replay or drop", q.Op)}
	}
	switch {
	case errors.Is(err, ErrNotParked):
		return ParkedReply{Code: ParkedCodeNotFound, Error: fmt.Sprintf("subscription %s of %s has no parked message %s: it ran or was dropped meanwhile", d.cfg.Subscription.Name, d.cfg.Subscription.Topic, q.ID)}
	case errors.Is(err, ErrConflict):
		return ParkedReply{Code: ParkedCodeConflict, Error: err.Error()}
	case err != nil:
		return ParkedReply{Code: ParkedCodeInternal, Error: err.Error()}
	}
	return reply
}

func (d *dispatcher) listParked(ctx context.Context, q ParkedRequest) (ParkedReply, error) {
	limit := q.Limit
	if limit <= 0 {
		limit = defaultParkedLimit
	}
	limit = min(limit, maxParkedLimit)
	ps, err := d.cfg.Store.Parked(ctx, ParkedQuery{Subscription: d.uid, State: q.State, ID: q.ID, After: q.After, Limit: limit + 1})
	if err != nil {
		return ParkedReply{}, fmt.Errorf("list parked messages: %w", err)
	}
	var reply ParkedReply
	size := 0
	for i, p := range ps {
		info := d.info(p)
		b, err := json.Marshal(info)
		if err != nil {
			return ParkedReply{}, fmt.Errorf("list parked messages: %w", err)
		}
		if size += len(b); i == limit || size > maxParkedReply {
			reply.More = true
			break
		}
		reply.Parked = append(reply.Parked, info)
	}
	return reply, nil
}

func (d *dispatcher) showParked(ctx context.Context, q ParkedRequest) (ParkedReply, error) {
	ps, err := d.cfg.Store.Parked(ctx, ParkedQuery{Subscription: d.uid, ID: q.ID, Limit: 1})
	if err != nil {
		return ParkedReply{}, fmt.Errorf("show a parked message: %w", err)
	}
	if len(ps) == 0 {
		return ParkedReply{}, ErrNotParked
	}
	info, payload := d.info(ps[0]), ps[0].Message.Payload
	info.Headers = ps[0].Message.Headers
	info.Offset = min(max(q.Offset, 0), len(payload))
	info.Payload = payload[info.Offset:min(info.Offset+MaxParkedPayload, len(payload))]
	return ParkedReply{Parked: []ParkedInfo{info}}, nil
}

// changeParked locks one parked message and lets fn change it.
func (d *dispatcher) changeParked(ctx context.Context, id string, fn func(context.Context, StoreTx, *Parked) error) (ParkedReply, error) {
	tx, err := d.cfg.Store.Begin(ctx)
	if err != nil {
		return ParkedReply{}, err
	}
	defer func() { _ = tx.Rollback() }()
	p, err := tx.Lock(ctx, d.uid, id)
	if err != nil {
		return ParkedReply{}, err
	}
	if err := fn(ctx, tx, &p); err != nil {
		return ParkedReply{}, err
	}
	if err := tx.Commit(ctx); err != nil {
		return ParkedReply{}, err
	}
	d.awake()
	return ParkedReply{Parked: []ParkedInfo{d.info(p)}}, nil
}

func (d *dispatcher) replay(ctx context.Context, tx StoreTx, p *Parked) error {
	switch p.State {
	case ParkedHeld:
		return fmt.Errorf("%w: it is held behind an earlier message of its key: replay or drop that one", ErrConflict)
	case ParkedDead:
		p.Attempts = 0
	}
	p.State, p.NextAt = ParkedWaiting, d.cfg.Now()
	d.log.Info("parked message replayed", "id", p.Message.ID, "gid", p.Message.GID)
	return tx.Update(ctx, *p)
}

func (d *dispatcher) drop(ctx context.Context, tx StoreTx, p *Parked) error {
	d.log.Warn("parked message dropped", "id", p.Message.ID, "gid", p.Message.GID, "state", p.State, "reason", p.Reason)
	return tx.Settle(ctx, d.uid, p.Message.ID, txn.Dropped)
}

func (d *dispatcher) info(p Parked) ParkedInfo {
	m := p.Message
	info := ParkedInfo{
		Seq: p.Seq, ID: m.ID, GID: gidOf(m.GID, m.ID), Topic: m.Topic, Subscription: d.cfg.Subscription.Name, UID: d.uid, Key: m.Key,
		State: p.State, Attempts: p.Attempts, Reason: p.Reason, ParkedAt: p.ParkedAt.UnixMilli(),
		Outbox: m.Outbox, OutboxSeq: m.Seq, ContentType: m.ContentType, Size: len(m.Payload),
	}
	if p.State == ParkedWaiting && p.NextAt.After(time.Time{}) {
		info.NextAt = p.NextAt.UnixMilli()
	}
	return info
}

// gidOf is the global transaction of a message: without one of the sender's it is the message itself.
func gidOf(gid, id string) string {
	if gid == "" {
		return id
	}
	return gid
}
