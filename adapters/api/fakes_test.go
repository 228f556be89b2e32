package api

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

// now is the clock of all tests.
func now() time.Time { return time.UnixMilli(1_800_000_000_000) }

// fakeOwner keeps topics in memory, with the errors the real one gives.
type fakeOwner struct {
	mu      sync.Mutex
	topics  []Topic
	reports []outbox.Report
	fail    error
}

func (o *fakeOwner) Topics(context.Context) ([]Topic, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.topics), o.fail
}

func (o *fakeOwner) find(name string) (*Topic, error) {
	i := slices.IndexFunc(o.topics, func(t Topic) bool { return t.Name == name })
	if i < 0 {
		return nil, notFound("twostep topics create "+name, "there is no topic %s", name)
	}
	return &o.topics[i], nil
}

func (o *fakeOwner) Topic(_ context.Context, name string) (Topic, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	t, err := o.find(name)
	if err != nil {
		return Topic{}, err
	}
	return *t, nil
}

func (o *fakeOwner) CreateTopic(_ context.Context, name string, s outbox.TopicSettings) (Topic, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if t, err := o.find(name); err == nil {
		if t.Keyed != s.Keyed {
			return Topic{}, &Problem{Code: CodeConflict, Message: "exists with other settings"}
		}
		return *t, nil
	}
	t := Topic{Name: name, Delivery: string(s.Delivery), NoSubscribers: string(s.NoSubscribers), Keyed: s.Keyed}
	o.topics = append(o.topics, t)
	return t, nil
}

func (o *fakeOwner) DeleteTopic(_ context.Context, name string, force bool) (string, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, err := o.find(name); err != nil {
		return "", err
	}
	if !force {
		return "", &Problem{Code: CodeConflict, Message: "3 messages are in flight", Hint: "use --force"}
	}
	o.topics = slices.DeleteFunc(o.topics, func(t Topic) bool { return t.Name == name })
	return "3 rows", nil
}

func (o *fakeOwner) Subscribe(_ context.Context, topic, name string) (Subscription, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	t, err := o.find(topic)
	if err != nil {
		return Subscription{}, err
	}
	s := Subscription{UID: "uid-" + name, Topic: topic, Name: name, State: "registered", CreatedAtMS: 5}
	t.Subscriptions = append(t.Subscriptions, s)
	return s, nil
}

func (o *fakeOwner) Unsubscribe(_ context.Context, topic, name string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	t, err := o.find(topic)
	if err != nil {
		return err
	}
	for i := range t.Subscriptions {
		if t.Subscriptions[i].Name == name {
			t.Subscriptions[i].State = StateRemoved
			return nil
		}
	}
	return notFound("", "there is no subscription %s/%s", topic, name)
}

func (o *fakeOwner) Reports(context.Context) ([]outbox.Report, error) { return o.reports, o.fail }

func (o *fakeOwner) ForgetOutbox(_ context.Context, uuid string) error {
	for _, r := range o.reports {
		if r.Outbox == uuid {
			return nil
		}
	}
	return notFound("", "there is no outbox %s", uuid)
}

// fakeAsker answers as relays and dispatchers do.
type fakeAsker struct {
	mu     sync.Mutex
	rows   map[string][]outbox.RowInfo    // by outbox
	parked map[string][]topics.ParkedInfo // by uid
	asked  []topics.ParkedRequest
}

func (a *fakeAsker) Request(ctx context.Context, name string, body []byte) ([]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if uid, ok := cut(name, "sub."); ok {
		parked, known := a.parked[uid]
		if !known {
			return nil, broker.ErrNoAnswer
		}
		var q topics.ParkedRequest
		if err := json.Unmarshal(body, &q); err != nil {
			return nil, err
		}
		a.asked = append(a.asked, q)
		return json.Marshal(answerParked(parked, q))
	}
	uuid, _ := cut(name, "outbox.")
	rows, known := a.rows[uuid]
	if !known {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	var q outbox.RowsRequest
	if err := json.Unmarshal(body, &q); err != nil {
		return nil, err
	}
	reply := outbox.RowsReply{Rows: []outbox.RowInfo{}}
	for i, r := range rows {
		if r.Seq <= q.After {
			continue
		}
		if (q.GID == "" || q.GID == r.GID) && (q.Topic == "" || q.Topic == r.Topic) {
			reply.Rows = append(reply.Rows, r)
		}
		if i+1 < len(rows) { // one row an answer, so that paging is used
			reply.Next = r.Seq
		}
		break
	}
	return json.Marshal(reply)
}

func answerParked(all []topics.ParkedInfo, q topics.ParkedRequest) topics.ParkedReply {
	var reply topics.ParkedReply
	for _, p := range all {
		if q.ID != "" && q.ID != p.ID || q.State != "" && q.State != p.State || p.Seq <= q.After {
			continue
		}
		if len(reply.Parked) == 2 { // small pages, so that paging is used
			reply.More = true
			break
		}
		p.Payload = p.Payload[min(q.Offset, len(p.Payload)):]
		p.Payload = p.Payload[:min(4, len(p.Payload))]
		reply.Parked = append(reply.Parked, p)
	}
	if q.Op != topics.ParkedList && len(reply.Parked) == 0 {
		return topics.ParkedReply{Code: topics.ParkedCodeNotFound, Error: "no such parked message"}
	}
	if q.Op == topics.ParkedReplay && reply.Parked[0].State == topics.ParkedHeld {
		return topics.ParkedReply{Code: topics.ParkedCodeConflict, Error: "it is held"}
	}
	return reply
}

func cut(s, prefix string) (string, bool) {
	if len(s) >= len(prefix) && s[:len(prefix)] == prefix {
		return s[len(prefix):], true
	}
	return s, false
}

// fixture is a server with one topic, two subscriptions, two outboxes, of which one does not answer.
type fixture struct {
	owner  *fakeOwner
	asker  *fakeAsker
	log    *bytes.Buffer
	server *httptest.Server
	client *Client
}

func newFixture(tb testing.TB) *fixture {
	tb.Helper()
	f := &fixture{
		owner: &fakeOwner{
			topics: []Topic{{Name: "bank.in", Delivery: "confirmed", NoSubscribers: "hold", Keyed: true, Version: 3, Subscriptions: []Subscription{
				{UID: "u1", Topic: "bank.in", Name: "accounts", State: "active", CreatedAtMS: 1},
				{UID: "u2", Topic: "bank.in", Name: "audit", State: "registered", CreatedAtMS: 2},
				{UID: "u3", Topic: "bank.in", Name: "old", State: StateRemoved, CreatedAtMS: 3},
			}}},
			reports: []outbox.Report{
				{Outbox: "box", Name: "bank-a", Backlog: 2, Unpublished: 1, At: now().UnixMilli() - 1000, OldestAt: now().UnixMilli() - 90_000, WaitingFor: map[string]int64{"u1": 1, "u2": 2, "broker": 1}},
				{Outbox: "dark", Name: "bank-b", At: now().UnixMilli() - 500},
			},
		},
		asker: &fakeAsker{
			rows: map[string][]outbox.RowInfo{"box": {
				{Seq: 1, ID: "m1", GID: "order-1", Topic: "bank.in", Key: "k", CreatedAt: 100, Size: 9, Published: true, WaitingFor: []string{"u2"}},
				{Seq: 2, ID: "m2", GID: "m2", Topic: "bank.in", CreatedAt: 200, Size: 9, WaitingFor: []string{"broker", "u1", "u2"}},
			}},
			parked: map[string][]topics.ParkedInfo{"u1": {
				{Seq: 1, ID: "m1", GID: "order-1", Topic: "bank.in", State: topics.ParkedDead, Attempts: 4, Reason: "no such account", ParkedAt: 150, Size: 9, Payload: []byte(`{"a":"b"}`)},
				{Seq: 2, ID: "m0", GID: "m0", Topic: "bank.in", State: topics.ParkedDead, Attempts: 1, ParkedAt: 50},
				{Seq: 3, ID: "bank.in/0/7@9", GID: "bank.in/0/7@9", Topic: "bank.in", State: topics.ParkedHeld, ParkedAt: 60},
			}},
		},
		log: &bytes.Buffer{},
	}
	s := NewServer(f.owner, f.asker, Config{Now: now, AskTimeout: 50 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(f.log, nil)),
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("metrics")) }),
		Checks:  []Check{{"broker", func(context.Context) error { return f.owner.fail }}}})
	f.server = httptest.NewServer(s.Handler())
	tb.Cleanup(f.server.Close)
	c, err := NewClient(f.server.URL)
	if err != nil {
		tb.Fatal(err)
	}
	f.client = c
	return f
}
