package api

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/twostep-mq/twostep/outbox"
)

const (
	// reportTooOld: a relay that lives reports every 15 seconds at least; after three that did not come nobody relays.
	reportTooOld = 45 * time.Second
	// rowTooOld: with everybody there, a row is released within seconds.
	rowTooOld = time.Minute
)

func (s *Server) listOutboxes(r *http.Request) (int, any, error) {
	q, err := query(r, "stuck")
	if err != nil {
		return 0, nil, err
	}
	onlyStuck, err := boolean(q, "stuck")
	if err != nil {
		return 0, nil, err
	}
	reports, err := s.owner.Reports(r.Context())
	if err != nil {
		return 0, nil, err
	}
	names, err := s.subscriptionNames(r.Context())
	if err != nil {
		return 0, nil, err
	}
	list := OutboxList{Outboxes: []Outbox{}}
	for _, report := range reports {
		o := view(report, names, s.cfg.Now())
		if o.Stuck || !onlyStuck {
			list.Outboxes = append(list.Outboxes, o)
		}
	}
	slices.SortFunc(list.Outboxes, func(a, b Outbox) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.UUID, b.UUID))
	})
	return http.StatusOK, list, nil
}

func (s *Server) forgetOutbox(r *http.Request) (int, any, error) {
	if _, err := query(r); err != nil {
		return 0, nil, err
	}
	return http.StatusNoContent, nil, s.owner.ForgetOutbox(r.Context(), r.PathValue("uuid"))
}

// subscriptionNames maps every uid to topic/name.
func (s *Server) subscriptionNames(ctx context.Context) (map[string]string, error) {
	all, err := s.owner.Topics(ctx)
	if err != nil {
		return nil, err
	}
	names := map[string]string{}
	for _, t := range all {
		for _, sub := range t.Subscriptions {
			names[sub.UID] = sub.Topic + "/" + sub.Name
		}
	}
	return names, nil
}

// view shows a report as of now.
func view(r outbox.Report, names map[string]string, now time.Time) Outbox {
	o := Outbox{
		UUID: r.Outbox, Name: r.Name, Relay: r.Relay, Epoch: r.Epoch, RegistryVersion: r.Version,
		Backlog: r.Backlog, Unpublished: r.Unpublished, Released: r.Released, Held: r.Held,
		ReportAtMS: r.At, WaitingFor: []Waiting{},
	}
	if r.At > 0 {
		o.ReportAgeMS = max(0, now.UnixMilli()-r.At)
	}
	if r.OldestAt > 0 {
		o.OldestAgeMS = max(0, now.UnixMilli()-r.OldestAt)
	}
	for _, sub := range r.Subscriptions { // what a report names can be newer than what this server knows
		if names[sub.UID] == "" {
			names[sub.UID] = sub.Topic + "/" + sub.Name
		}
	}
	for confirmer, rows := range r.WaitingFor {
		o.WaitingFor = append(o.WaitingFor, Waiting{Confirmer: confirmer, Subscription: names[confirmer], Rows: rows})
	}
	slices.SortFunc(o.WaitingFor, func(a, b Waiting) int {
		return cmp.Or(cmp.Compare(b.Rows, a.Rows), cmp.Compare(a.Confirmer, b.Confirmer))
	})
	o.Reason = stuck(o)
	o.Stuck = o.Reason != ""
	return o
}

// stuck says why somebody should look at an outbox; empty: there is no need.
func stuck(o Outbox) string {
	reportAge, oldest := span(o.ReportAgeMS), span(o.OldestAgeMS)
	switch {
	case o.ReportAtMS == 0:
		return "no relay has reported: start the service, or forget the outbox if it is gone for good"
	case reportAge > reportTooOld && o.Backlog > 0:
		return fmt.Sprintf("no relay has reported for %s, and %d rows wait: start the service, or a relay for its database", reportAge.Round(time.Second), o.Backlog)
	case o.Held != "" && o.Backlog > 0:
		return "the relay releases nothing: " + o.Held
	case oldest > rowTooOld && len(o.WaitingFor) > 0:
		first := o.WaitingFor[0]
		who := cmp.Or(first.Subscription, first.Confirmer)
		return fmt.Sprintf("the oldest row waits for %s; %d rows lack the word of %s", oldest.Round(time.Second), first.Rows, who)
	case oldest > rowTooOld:
		return fmt.Sprintf("the oldest row waits for %s", oldest.Round(time.Second))
	}
	return ""
}

func span(ms int64) time.Duration { return time.Duration(ms) * time.Millisecond }
