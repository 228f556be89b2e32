package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/outbox"
)

func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("scrape: %d\n%s", w.Code, w.Body)
	}
	return w.Body.String()
}

func newMetrics(t *testing.T, reports Reports) *Metrics {
	t.Helper()
	m, err := New(Config{Version: "1.2.3", Reports: reports, Now: func() time.Time { return time.UnixMilli(100_000) }})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestReportsAreShown(t *testing.T) {
	m := newMetrics(t, func(context.Context) ([]outbox.Report, error) {
		return []outbox.Report{{
			Outbox: "u", Name: "bank-a", Backlog: 7, Unpublished: 2, Released: 40, OldestAt: 90_000, At: 99_500, Held: "no registry",
			Subscriptions: []outbox.RegistrySubscription{{UID: "s", Topic: "t", Name: "accounts"}},
			WaitingFor:    map[string]int64{"s": 5, "broker": 2, "unknown": 1},
		}}, nil
	})
	got := scrape(t, m)
	for _, want := range []string{
		`twostep_outbox_backlog{name="bank-a",outbox="u"} 7`,
		`twostep_outbox_unpublished{name="bank-a",outbox="u"} 2`,
		`twostep_outbox_oldest_seconds{name="bank-a",outbox="u"} 10`,
		`twostep_outbox_report_age_seconds{name="bank-a",outbox="u"} 0.5`,
		`twostep_outbox_released_total{name="bank-a",outbox="u"} 40`,
		`twostep_outbox_held{name="bank-a",outbox="u"} 1`,
		`twostep_outbox_waiting_for{name="bank-a",outbox="u",subscription="t/accounts"} 5`,
		`twostep_outbox_waiting_for{name="bank-a",outbox="u",subscription="broker"} 2`,
		`twostep_outbox_waiting_for{name="bank-a",outbox="u",subscription="unknown"} 1`,
		`twostep_outbox_reports_failed 0`,
		`twostep_build_info{version="1.2.3"} 1`,
		"go_goroutines ",
	} {
		if !strings.Contains(got, want+"\n") && !strings.Contains(got, want) {
			t.Errorf("missing: %s", want)
		}
	}
}

func TestReferenceListsEveryMetric(t *testing.T) {
	reference, err := os.ReadFile("../../docs/reference.md")
	if err != nil {
		t.Fatal(err)
	}
	m := newMetrics(t, func(context.Context) ([]outbox.Report, error) {
		return []outbox.Report{{Outbox: "u", WaitingFor: map[string]int64{"broker": 1}}}, nil
	})
	m.Requests(http.NotFoundHandler()).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	ours := 0
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "twostep_") {
			continue
		}
		ours++
		if !strings.Contains(string(reference), "| `"+f.GetName()+"` |") {
			t.Errorf("docs/reference.md lacks %s", f.GetName())
		}
	}
	if listed := strings.Count(string(reference), "\n| `twostep_") - strings.Count(string(reference), "| `twostep_outbox` |"); ours < 11 || listed < ours {
		t.Errorf("%d metrics gathered, %d listed", ours, listed)
	}
}

func TestLabelsAreBounded(t *testing.T) {
	m := newMetrics(t, func(context.Context) ([]outbox.Report, error) {
		var all []outbox.Report
		for i := range 3 * maxOutboxes {
			r := outbox.Report{Outbox: fmt.Sprint("u", i), Backlog: 1, WaitingFor: map[string]int64{}}
			for j := range 2 * maxWaiting {
				r.WaitingFor[fmt.Sprint("s", j)] = 1
			}
			all = append(all, r)
		}
		return all, nil
	})
	got := scrape(t, m)
	if n := strings.Count(got, "\ntwostep_outbox_backlog{"); n != maxOutboxes+1 {
		t.Errorf("%d outboxes shown", n)
	}
	if !strings.Contains(got, fmt.Sprintf(`twostep_outbox_backlog{name="other",outbox="other"} %d`, 2*maxOutboxes)) {
		t.Error("the rest is not added up")
	}
	if n := strings.Count(got, "\ntwostep_outbox_waiting_for{"); n != maxOutboxes*(maxWaiting+1) {
		t.Errorf("%d waiting_for shown", n)
	}
	if !strings.Contains(got, fmt.Sprintf(`outbox="u0",subscription="other"} %d`, maxWaiting)) {
		t.Error("the rest of the subscriptions is not added up")
	}
}

func TestFailedReportsDoNotBreakTheScrape(t *testing.T) {
	m := newMetrics(t, func(context.Context) ([]outbox.Report, error) { return nil, errors.New("no") })
	if got := scrape(t, m); !strings.Contains(got, "twostep_outbox_reports_failed 1") {
		t.Error(got)
	}
}

func TestRequestsAreCountedByRoute(t *testing.T) {
	m := newMetrics(t, nil)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /things/{id}", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	h := m.Requests(mux)
	for i := range 50 {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, fmt.Sprint("/things/", i), nil))
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, fmt.Sprint("/nothing/", i), nil))
	}
	got := scrape(t, m)
	for _, want := range []string{
		`twostep_http_requests_total{code="418",route="GET /things/{id}"} 50`,
		`twostep_http_requests_total{code="404",route="none"} 50`,
		`twostep_http_request_seconds_count{route="GET /things/{id}"} 50`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("missing: %s", want)
		}
	}
}
