package outbox

import (
	"context"
	"encoding/json"
	"fmt"
)

// RowsRequest asks the relay of an outbox about unreleased rows, under the name Inbox(uuid).
type RowsRequest struct {
	// Op is "list" or "show" (with the payload).
	Op    string `json:"op"`
	ID    string `json:"id,omitempty"`
	GID   string `json:"gid,omitempty"`
	Topic string `json:"topic,omitempty"`
	// After is the last row number of the page before; Limit at most 500 (100).
	After int64 `json:"after,omitempty"`
	Limit int   `json:"limit,omitempty"`
}

// RowsReply is the answer.
type RowsReply struct {
	Rows []RowInfo `json:"rows"`
	// Next is set where the search stopped before the last row, at the limit or for its length: ask again with After.
	Next  int64  `json:"next,omitempty"`
	Error string `json:"error,omitempty"`
}

// RowInfo describes an unreleased row.
type RowInfo struct {
	Seq       int64  `json:"seq"`
	ID        string `json:"id"`
	GID       string `json:"gid"`
	Topic     string `json:"topic"`
	Key       string `json:"key,omitempty"`
	CreatedAt int64  `json:"created_at_ms"`
	Size      int    `json:"size_bytes"`
	Published bool   `json:"published"`
	// WaitingFor are uids of subscriptions ("broker" for the broker) whose word is missing.
	WaitingFor []string `json:"waiting_for"`
	// Payload, of "show"; missing where the answer would have become too long.
	Payload []byte `json:"payload,omitempty"`
}

func (r *Relay) answer(ctx context.Context, body []byte) []byte {
	var reply RowsReply
	var req RowsRequest
	if err := json.Unmarshal(body, &req); err != nil {
		reply.Error = "malformed request: " + err.Error()
	} else {
		done := make(chan struct{})
		r.queue.push(func(ev *events) {
			ev.calls = append(ev.calls, func() {
				defer close(done)
				if r.mem == nil {
					reply.Error = "the relay is starting: try again"
					return
				}
				rows, next, err := r.describe(ctx, r.mem, req)
				if err != nil {
					reply.Error = err.Error()
				}
				reply.Rows, reply.Next = rows, next
			})
		})
		select {
		case <-done:
		case <-ctx.Done():
			return []byte(`{"error":"the relay is busy: try again"}`)
		}
	}
	b, err := json.Marshal(reply)
	if err != nil {
		return []byte(`{"error":"cannot encode the answer"}`)
	}
	return b
}

// describe looks through the window in pages; it reads at most a few thousand rows for one request, and then returns where to go on.
func (r *Relay) describe(ctx context.Context, m *memory, req RowsRequest) (found []RowInfo, next int64, err error) {
	limit := min(max(req.Limit, 0), 500)
	if limit == 0 {
		limit = 100
	}
	out := []RowInfo{}
	after := req.After
	defer func() {
		if err == nil && req.Op == "show" {
			err = r.addPayloads(ctx, found)
		}
	}()
	for range 20 {
		p, err := r.store.Scan(ctx, after, 500, false)
		if err != nil {
			return nil, 0, fmt.Errorf("outbox: read rows: %w", err)
		}
		for i := range p.Rows {
			row := &p.Rows[i]
			after = row.Seq
			gid := row.GID
			if gid == "" {
				gid = row.ID
			}
			if req.ID != "" && req.ID != row.ID || req.GID != "" && req.GID != gid || req.Topic != "" && req.Topic != row.Topic {
				continue
			}
			info := RowInfo{Seq: row.Seq, ID: row.ID, GID: gid, Topic: row.Topic, Key: row.Key, CreatedAt: row.Time.UnixMilli(), Size: row.Size}
			info.Published = m.win.has(row.Seq) && m.broker.has(row.Seq)
			info.WaitingFor = m.waitingFor(row)
			if out = append(out, info); len(out) == limit {
				return out, after, nil
			}
		}
		if len(p.Rows) < 500 {
			return out, 0, nil
		}
	}
	return out, after, nil
}

// shownPayloads bounds the payloads of one answer in bytes: as text in JSON they have to fit into one message.
const shownPayloads = 500_000

// addPayloads reads the payloads of the rows found, as far as they fit into the answer.
func (r *Relay) addPayloads(ctx context.Context, found []RowInfo) error {
	var seqs []int64
	index := map[int64]int{}
	size := 0
	for i := range found {
		if size += found[i].Size; size > shownPayloads {
			break
		}
		seqs = append(seqs, found[i].Seq)
		index[found[i].Seq] = i
	}
	p, err := r.store.Read(ctx, seqs)
	if err != nil {
		return fmt.Errorf("outbox: read payloads: %w", err)
	}
	for i := range p.Rows {
		found[index[p.Rows[i].Seq]].Payload = p.Rows[i].Payload
	}
	return nil
}

func (m *memory) waitingFor(row *Row) []string {
	out := []string{}
	if !m.win.has(row.Seq) || !m.broker.has(row.Seq) {
		out = append(out, BrokerConfirmer)
	}
	for _, uid := range m.uids(row.Topic) {
		if !m.subs[uid].has(row.Seq) {
			out = append(out, uid)
		}
	}
	return out
}
