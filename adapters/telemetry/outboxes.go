package telemetry

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/twostep-mq/twostep/outbox"
)

// Limits of label values: what is beyond is added up under "other", so that no number of outboxes or subscriptions makes
// the server's metrics grow without bound.
const (
	maxOutboxes = 200
	maxWaiting  = 50 // per outbox
	other       = "other"
)

// Reports gives the latest reports of all outboxes that are not forgotten.
type Reports func(ctx context.Context) ([]outbox.Report, error)

// outboxes shows relays' reports as gauges, read when metrics are scraped.
type outboxes struct {
	reports                                                            Reports
	now                                                                func() time.Time
	backlog, unpublished, oldest, waiting, released, held, age, failed *prometheus.Desc
}

func newOutboxes(reports Reports, now func() time.Time) *outboxes {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("twostep_outbox_"+name, help, labels, nil)
	}
	return &outboxes{
		reports:     reports,
		now:         now,
		backlog:     desc("backlog", "Rows that are not released.", "outbox", "name"),
		unpublished: desc("unpublished", "Rows that the broker has not acknowledged.", "outbox", "name"),
		oldest:      desc("oldest_seconds", "Age of the oldest row that is not released; 0: there is none.", "outbox", "name"),
		waiting:     desc("waiting_for", "Rows that lack the word of a subscription, or of the broker.", "outbox", "name", "subscription"),
		released:    desc("released_total", "Rows released since the relay started.", "outbox", "name"),
		held:        desc("held", "1 where the relay releases nothing, for lack of the registry or of subscribers.", "outbox", "name"),
		age:         desc("report_age_seconds", "Age of the relay's latest report; a relay that lives reports every 15 s at least. 0: there is none.", "outbox", "name"),
		failed:      desc("reports_failed", "1 where the reports could not be read for this scrape."),
	}
}

// Describe implements prometheus.Collector.
func (o *outboxes) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{o.backlog, o.unpublished, o.oldest, o.waiting, o.released, o.held, o.age, o.failed} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (o *outboxes) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	reports, err := o.reports(ctx)
	ch <- prometheus.MustNewConstMetric(o.failed, prometheus.GaugeValue, flag(err != nil))
	if err != nil {
		return
	}
	for _, s := range o.samples(reports) {
		gauge := func(d *prometheus.Desc, v float64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, s.uuid, s.name)
		}
		gauge(o.backlog, s.backlog)
		gauge(o.unpublished, s.unpublished)
		gauge(o.oldest, s.oldest)
		gauge(o.held, s.held)
		gauge(o.age, s.age)
		ch <- prometheus.MustNewConstMetric(o.released, prometheus.CounterValue, s.released, s.uuid, s.name)
		for _, w := range s.waiting {
			ch <- prometheus.MustNewConstMetric(o.waiting, prometheus.GaugeValue, w.rows, s.uuid, s.name, w.subscription)
		}
	}
}

// sample is what is shown of one outbox, or of all that are beyond the limit.
type sample struct {
	uuid, name                                        string
	backlog, unpublished, oldest, released, held, age float64
	waiting                                           []waiting
}

type waiting struct {
	subscription string
	rows         float64
}

// samples turns reports into what is shown: the largest backlogs by themselves, the rest as one.
func (o *outboxes) samples(reports []outbox.Report) []sample {
	reports = slices.Clone(reports)
	slices.SortFunc(reports, func(a, b outbox.Report) int {
		return cmp.Or(cmp.Compare(b.Backlog, a.Backlog), cmp.Compare(a.Outbox, b.Outbox))
	})
	var shown []sample
	for i, r := range reports {
		s := o.sample(r)
		if i < maxOutboxes {
			shown = append(shown, s)
			continue
		}
		if i == maxOutboxes {
			shown = append(shown, sample{uuid: other, name: other})
		}
		rest := &shown[maxOutboxes]
		rest.backlog += s.backlog
		rest.unpublished += s.unpublished
		rest.released += s.released
		rest.oldest = max(rest.oldest, s.oldest)
		rest.held = max(rest.held, s.held)
		rest.age = max(rest.age, s.age)
	}
	return shown
}

func (o *outboxes) sample(r outbox.Report) sample {
	now := o.now().UnixMilli()
	s := sample{
		uuid: r.Outbox, name: r.Name,
		backlog: float64(r.Backlog), unpublished: float64(r.Unpublished), released: float64(r.Released),
		held: flag(r.Held != ""),
	}
	if r.At > 0 {
		s.age = float64(max(0, now-r.At)) / 1000
	}
	if r.OldestAt > 0 {
		s.oldest = float64(max(0, now-r.OldestAt)) / 1000
	}
	names := map[string]string{"broker": "broker"}
	for _, sub := range r.Subscriptions {
		names[sub.UID] = sub.Topic + "/" + sub.Name
	}
	rows := map[string]int64{} // two removed and remade subscriptions can share a name
	for confirmer, n := range r.WaitingFor {
		rows[cmp.Or(names[confirmer], confirmer)] += n
	}
	for name, n := range rows {
		s.waiting = append(s.waiting, waiting{name, float64(n)})
	}
	slices.SortFunc(s.waiting, func(a, b waiting) int {
		return cmp.Or(cmp.Compare(b.rows, a.rows), cmp.Compare(a.subscription, b.subscription))
	})
	if len(s.waiting) > maxWaiting {
		rest := waiting{subscription: other}
		for _, w := range s.waiting[maxWaiting:] {
			rest.rows += w.rows
		}
		s.waiting = append(s.waiting[:maxWaiting:maxWaiting], rest)
	}
	return s
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
