package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/twostep-mq/twostep/outbox"
)

func TestTopics(t *testing.T) {
	f, ctx := newFixture(t), t.Context()
	made, err := f.client.CreateTopic(ctx, CreateTopic{Name: "new"})
	if err != nil || made.Delivery != "confirmed" || made.NoSubscribers != "hold" || made.Keyed {
		t.Fatalf("create: %+v, %v", made, err)
	}
	if _, err := f.client.CreateTopic(ctx, CreateTopic{Name: "new", Keyed: true}); code(err) != CodeConflict {
		t.Errorf("other settings: %v", err)
	}
	if _, err := f.client.CreateTopic(ctx, CreateTopic{Name: "x", Delivery: "maybe"}); code(err) != CodeInvalid {
		t.Errorf("bad delivery: %v", err)
	}
	sub, err := f.client.Subscribe(ctx, "new", "reader")
	if err != nil || sub.UID != "uid-reader" || sub.State != "registered" {
		t.Fatalf("subscribe: %+v, %v", sub, err)
	}
	if err := f.client.Unsubscribe(ctx, "new", "reader"); err != nil {
		t.Errorf("unsubscribe: %v", err)
	}
	if err := f.client.Unsubscribe(ctx, "new", "nobody"); code(err) != CodeNotFound {
		t.Errorf("unsubscribe nobody: %v", err)
	}
	if _, err := f.client.DeleteTopic(ctx, "new", false); code(err) != CodeConflict {
		t.Errorf("delete: %v", err)
	}
	if deleted, err := f.client.DeleteTopic(ctx, "new", true); err != nil || deleted.Left != "3 rows" {
		t.Errorf("forced: %+v, %v", deleted, err)
	}
	if _, err := f.client.Topic(ctx, "new"); code(err) != CodeNotFound || !strings.Contains(err.Error(), "twostep topics create new") {
		t.Errorf("deleted topic: %v", err)
	}
	list, err := f.client.Topics(ctx)
	if err != nil || len(list.Topics) != 1 || len(list.Topics[0].Subscriptions) != 3 {
		t.Errorf("list: %+v, %v", list, err)
	}
}

func TestOutboxes(t *testing.T) {
	f, ctx := newFixture(t), t.Context()
	list, err := f.client.Outboxes(ctx, false)
	if err != nil || len(list.Outboxes) != 2 {
		t.Fatalf("list: %+v, %v", list, err)
	}
	o := list.Outboxes[0]
	if o.OldestAgeMS != 90_000 || o.ReportAgeMS != 1000 || o.WaitingFor[0] != (Waiting{"u2", "bank.in/audit", 2}) || len(o.WaitingFor) != 3 {
		t.Errorf("got %+v", o)
	}
	list, err = f.client.Outboxes(ctx, true)
	if err != nil || len(list.Outboxes) != 1 || list.Outboxes[0].UUID != "box" {
		t.Fatalf("stuck: %+v, %v", list, err)
	}
	if want := "the oldest row waits for 1m30s; 2 rows lack the word of bank.in/audit"; list.Outboxes[0].Reason != want {
		t.Errorf("reason %q, want %q", list.Outboxes[0].Reason, want)
	}
	if err := f.client.ForgetOutbox(ctx, "box"); err != nil {
		t.Error(err)
	}
	if err := f.client.ForgetOutbox(ctx, "nobody"); code(err) != CodeNotFound {
		t.Error(err)
	}
}

func TestStuck(t *testing.T) {
	tests := []struct {
		name   string
		report outbox.Report
		want   string
	}{
		{"empty", outbox.Report{At: -1000}, ""},
		{"busy", outbox.Report{At: -1000, Backlog: 5, OldestAt: -3000, WaitingFor: map[string]int64{"u": 5}}, ""},
		{"never reported", outbox.Report{At: -now().UnixMilli()}, "no relay has reported: start the service, or forget the outbox if it is gone for good"},
		{"stopped, nothing waits", outbox.Report{At: -3_600_000}, ""},
		{"stopped, rows wait", outbox.Report{At: -60_000, Backlog: 5, OldestAt: -60_000}, "no relay has reported for 1m0s, and 5 rows wait: start the service, or a relay for its database"},
		{"held", outbox.Report{At: -1000, Backlog: 5, OldestAt: -1000, Held: "no registry"}, "the relay releases nothing: no registry"},
		{"held, empty", outbox.Report{At: -1000, Held: "no registry"}, ""},
		{"old, broker", outbox.Report{At: -1000, Backlog: 5, OldestAt: -61_000, WaitingFor: map[string]int64{"broker": 5}}, "the oldest row waits for 1m1s; 5 rows lack the word of broker"},
		{"old, nobody", outbox.Report{At: -1000, Backlog: 5, OldestAt: -61_000}, "the oldest row waits for 1m1s"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.report.At += now().UnixMilli()
			if tt.report.OldestAt != 0 {
				tt.report.OldestAt += now().UnixMilli()
			}
			if o := view(tt.report, map[string]string{}, now()); o.Reason != tt.want || o.Stuck != (tt.want != "") {
				t.Errorf("got %q (%t), want %q", o.Reason, o.Stuck, tt.want)
			}
		})
	}
}

func TestTransactions(t *testing.T) {
	f, ctx := newFixture(t), t.Context()
	list, err := f.client.Transactions(ctx, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, x := range list.Transactions {
		got = append(got, x.ID+" "+x.State+" "+strings.Join(x.WaitingFor, ","))
	}
	want := "m0 parked |bank.in/0/7@9 parked |m1 unconfirmed bank.in/audit|m2 unpublished bank.in/accounts,bank.in/audit,broker"
	if strings.Join(got, "|") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, "|"), want)
	}
	if m1 := list.Transactions[2]; len(m1.Parked) != 1 || m1.Parked[0].Reason != "no such account" || m1.Outbox != "box" || m1.Seq != 1 {
		t.Errorf("m1 is %+v", m1)
	}
	if len(list.Unreachable) != 2 || list.Unreachable[0].ID != "dark" || list.Unreachable[1].ID != "u2" {
		t.Errorf("unreachable %+v", list.Unreachable)
	}
	if list, err = f.client.Transactions(ctx, "bank.in", 1); err != nil || len(list.Transactions) != 1 || !list.Truncated {
		t.Errorf("limit: %+v, %v", list, err)
	}
	if list, err = f.client.Transaction(ctx, "order-1"); err != nil || len(list.Transactions) != 1 || list.Transactions[0].ID != "m1" {
		t.Errorf("show: %+v, %v", list, err)
	}
	// With somebody silent, "not found" would be a guess.
	if _, err = f.client.Transaction(ctx, "order-2"); code(err) != CodeUnavailable {
		t.Errorf("unknown, some silent: %v", err)
	}
	f.owner.reports = f.owner.reports[:1]
	f.asker.parked["u2"] = nil
	if _, err = f.client.Transaction(ctx, "order-2"); code(err) != CodeNotFound {
		t.Errorf("unknown: %v", err)
	}
}

func TestDeadLetters(t *testing.T) {
	f, ctx := newFixture(t), t.Context()
	list, err := f.client.Dead(ctx, "", "", 0)
	if err != nil || len(list.Dead) != 2 || list.Dead[0].ID != "m0" || list.Dead[1].Name != "accounts" || len(list.Unreachable) != 1 {
		t.Fatalf("list: %+v, %v", list, err)
	}
	if list, err = f.client.Dead(ctx, "bank.in", "all", 0); err != nil || len(list.Dead) != 3 {
		t.Errorf("all: %+v, %v", list, err)
	}
	if _, err = f.client.Dead(ctx, "nowhere", "", 0); code(err) != CodeNotFound {
		t.Errorf("unknown topic: %v", err)
	}
	for _, subscription := range []string{"u1", "bank.in/accounts"} {
		d, err := f.client.DeadLetter(ctx, subscription, "m1")
		if err != nil || string(d.Payload) != `{"a":"b"}` || d.Attempts != 4 {
			t.Errorf("show at %s: %+v, %v", subscription, d, err)
		}
		if err := f.client.Replay(ctx, subscription, "m1"); err != nil {
			t.Errorf("replay at %s: %v", subscription, err)
		}
	}
	if !strings.Contains(f.log.String(), "payload of a parked message shown") {
		t.Error("showing a payload left no trace in the log")
	}
	if err := f.client.Replay(ctx, "bank.in/accounts", "bank.in/0/7@9"); code(err) != CodeConflict {
		t.Errorf("held, id with slashes: %v", err)
	}
	if err := f.client.Drop(ctx, "bank.in/accounts", "m9"); code(err) != CodeNotFound {
		t.Errorf("drop unknown: %v", err)
	}
	if err := f.client.Drop(ctx, "bank.in/audit", "m1"); code(err) != CodeUnavailable {
		t.Errorf("nobody runs it: %v", err)
	}
	if err := f.client.Drop(ctx, "bank.in/old", "m1"); code(err) != CodeNotFound {
		t.Errorf("removed subscription: %v", err)
	}
}

func TestHealth(t *testing.T) {
	f := newFixture(t)
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 200, "/metrics": 200, "/": 404, "/api/v1": 404} {
		if got, body := get(t, f, path); got != want {
			t.Errorf("%s: %d %s", path, got, body)
		}
	}
	f.owner.fail = errors.New("secret detail")
	if got, body := get(t, f, "/readyz"); got != 503 || !strings.Contains(body, `"broker":"secret detail"`) {
		t.Errorf("readyz: %d %s", got, body)
	}
	if got, _ := get(t, f, "/healthz"); got != 200 {
		t.Errorf("healthz: %d", got)
	}
	if got, body := get(t, f, "/api/v1/topics"); got != 500 || strings.Contains(body, "secret") {
		t.Errorf("an internal error's text reached the client: %d %s", got, body)
	}
	if !strings.Contains(f.log.String(), "secret detail") {
		t.Error("an internal error did not reach the log")
	}
}

// request makes a valid request for a route: its placeholders name what the fixture has.
func request(t *testing.T, base string, route Route) *http.Request {
	t.Helper()
	path := strings.NewReplacer("{topic}", "bank.in", "{name}", "accounts", "{uid}", "u1", "{id}", "m1", "{gid}", "order-1", "{uuid}", "box").Replace(route.Path)
	var body io.Reader
	switch route.Method + " " + route.Path {
	case "POST " + Prefix + "/topics":
		body = strings.NewReader(`{"name":"made"}`)
	case "POST " + Prefix + "/topics/{topic}/subscriptions":
		body = strings.NewReader(`{"name":"made"}`)
	case "DELETE " + Prefix + "/topics/{topic}":
		path += "?force=true"
	}
	r, err := http.NewRequestWithContext(t.Context(), route.Method, base+path, body)
	if err != nil {
		t.Fatal(err)
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	return r
}

func TestEveryRoute(t *testing.T) {
	reference, err := os.ReadFile("../../docs/reference.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, route := range Routes() {
		t.Run(route.Method+" "+route.Path, func(t *testing.T) {
			send := func(change func(*http.Request)) int {
				f := newFixture(t)
				r := request(t, f.server.URL, route)
				change(r)
				resp, err := http.DefaultClient.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = resp.Body.Close() }()
				raw, _ := io.ReadAll(resp.Body)
				if resp.StatusCode != http.StatusNoContent && !json.Valid(raw) {
					t.Errorf("no JSON: %s", raw)
				}
				return resp.StatusCode
			}
			if status := send(func(*http.Request) {}); status >= 300 {
				t.Errorf("a valid request gets %d", status)
			}
			crossSite := send(func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") })
			crossOrigin := send(func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") })
			if route.Changes() && (crossSite != 403 || crossOrigin != 403) {
				t.Errorf("from another origin: %d and %d, want 403", crossSite, crossOrigin)
			}
			if status := send(func(r *http.Request) { r.Host = "evil.example:36789" }); status != 403 {
				t.Errorf("under another host's name: %d, want 403", status)
			}
			if route.Method != http.MethodPost && route.Path != "/healthz" && route.Path != "/readyz" {
				if status := send(func(r *http.Request) { r.URL.RawQuery = "nonsense=1" }); status != 400 {
					t.Errorf("unknown query parameter: %d, want 400", status)
				}
			}
			if status := send(func(r *http.Request) { r.Method = http.MethodPatch }); status != 405 {
				t.Errorf("PATCH: %d, want 405", status)
			}
			if line := "`" + route.Method + " " + strings.TrimPrefix(route.Path, Prefix) + "`"; !bytes.Contains(reference, []byte(line)) {
				t.Errorf("docs/reference.md does not list %s", line)
			}
		})
	}
}

func TestBodies(t *testing.T) {
	f := newFixture(t)
	tests := []struct {
		name, contentType, body string
		want                    int
	}{
		{"unknown field", "application/json", `{"name":"x","colour":"red"}`, 400},
		{"trailing data", "application/json", `{"name":"x"} {}`, 400},
		{"array", "application/json", `["x"]`, 400},
		{"null", "application/json", `null`, 400},
		{"empty", "application/json", ``, 400},
		{"wrong type", "application/json", `{"name":7}`, 400},
		{"form", "application/x-www-form-urlencoded", `name=x`, 415},
		{"no type", "", `{"name":"x"}`, 415},
		{"with charset", "application/json; charset=utf-8", `{"name":"x"}`, 201},
		{"too large", "application/json", `{"name":"` + strings.Repeat("x", MaxBody) + `"}`, 413},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.server.URL+Prefix+"/topics", strings.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", tt.contentType)
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }()
			if resp.StatusCode != tt.want {
				raw, _ := io.ReadAll(resp.Body)
				t.Errorf("got %d %s, want %d", resp.StatusCode, raw, tt.want)
			}
		})
	}
}

func TestClientMeetsSomethingElse(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "topics") {
			_, _ = w.Write([]byte("<html>"))
			return
		}
		http.NotFound(w, r)
	}))
	defer other.Close()
	c, err := NewClient(other.URL)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Topics(t.Context()); !errors.Is(err, ErrUnreachable) {
		t.Errorf("HTML: %v", err)
	}
	if _, err := c.Outboxes(t.Context(), false); !errors.Is(err, ErrUnreachable) {
		t.Errorf("404: %v", err)
	}
	other.Close()
	if _, err := c.Topics(t.Context()); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "twostep serve") {
		t.Errorf("nobody: %v", err)
	}
	if _, err := NewClient("localhost:36789"); err == nil {
		t.Error("an address without a scheme was taken")
	}
}

func FuzzRequests(f *testing.F) {
	for _, route := range Routes() {
		f.Add(route.Method, route.Path, `{"name":"x"}`)
	}
	f.Add("POST", Prefix+"/topics", `{"name":"x","delivery":"broker"}`)
	f.Add("GET", Prefix+"/dead/%2f/%00", "")
	f.Add("GET", Prefix+"/transactions?limit=-1", "")
	fix := newFixture(f)
	handler := fix.server.Config.Handler
	f.Fuzz(func(t *testing.T, method, target, body string) {
		r, err := http.NewRequestWithContext(t.Context(), method, "http://127.0.0.1"+target, strings.NewReader(body))
		if err != nil || r.URL.Host != "127.0.0.1" || strings.Contains(target, "/outbox.dark") {
			t.Skip()
		}
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code >= 500 && w.Code != http.StatusServiceUnavailable {
			t.Errorf("%s %q %q: %d %s", method, target, body, w.Code, w.Body)
		}
	})
}

func FuzzDecodeStrict(f *testing.F) {
	f.Add(`{"name":"x"}`)
	f.Add(`{"name":"x","delivery":"broker","no_subscribers":"drop","keyed":true}`)
	f.Fuzz(func(t *testing.T, raw string) {
		var c CreateTopic
		if decodeStrict(raw, &c) != nil {
			return
		}
		written, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		var again CreateTopic
		if err := decodeStrict(string(written), &again); err != nil || again != c {
			t.Errorf("%q is %+v, read again %+v, %v", raw, c, again, err)
		}
	})
}

func code(err error) string {
	var p *Problem
	if errors.As(err, &p) {
		return p.Code
	}
	return ""
}

func get(t *testing.T, f *fixture, path string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.server.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(raw)
}
