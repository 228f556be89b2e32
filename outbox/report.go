package outbox

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/RoaringBitmap/roaring/v2/roaring64"
)

// reportAtLeast is how often a relay reports when nothing changes.
const reportAtLeast = 15 * time.Second

// report tells everybody about the outbox, as broker state. It names subscriptions only once the tables do.
func (r *Relay) report(ctx context.Context, m *memory, now time.Time) error {
	since := now.Sub(m.reportAt)
	if m.registryDirty || since < r.cfg.ReportEvery && !m.reportSoon {
		return nil
	}
	if now.Sub(m.reportLookAt) < r.cfg.ReportEvery && !m.reportSoon {
		return nil
	}
	m.reportLookAt = now
	rep := r.makeReport(m, now)
	same := m.reported
	same.At = rep.At
	if since < reportAtLeast && !m.reportSoon && reflect.DeepEqual(rep, same) {
		return nil
	}
	b, err := json.Marshal(rep)
	if err != nil {
		return fmt.Errorf("outbox: report: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := r.broker.PutState(ctx, StateReportPrefix+m.uuid, b); err != nil {
		return fmt.Errorf("outbox: report: %w", err)
	}
	m.reported, m.reportAt, m.reportSoon = rep, now, false
	return nil
}

func (r *Relay) makeReport(m *memory, now time.Time) Report {
	rep := Report{
		Outbox: m.uuid, Name: r.cfg.Name, Relay: r.cfg.Owner, Epoch: r.lease.Epoch,
		Owner: m.head.Owner, Version: m.head.Version, Released: r.released, At: now.UnixMilli(),
		Backlog: int64(m.win.rows.GetCardinality()), WaitingFor: map[string]int64{},
	}
	for _, uid := range sortedKeys(m.subs) {
		if m.subs[uid].recorded {
			rep.Subscriptions = append(rep.Subscriptions, m.subs[uid].sub)
		}
	}
	for _, uid := range sortedKeys(m.gone) {
		rep.Subscriptions = append(rep.Subscriptions, m.gone[uid])
	}
	if !m.win.rows.IsEmpty() {
		rep.OldestAt = int64(m.win.ref(int64(m.win.rows.Minimum())).madeAt) * 1000
	}
	for i := range m.win.topics {
		t := &m.win.topics[i]
		if t.rows.IsEmpty() {
			continue
		}
		rep.Topics = append(rep.Topics, t.name)
		total := t.rows.GetCardinality()
		if lacking := int64(total - roaring64.And(t.rows, m.broker.bits).GetCardinality()); lacking > 0 {
			rep.WaitingFor[BrokerConfirmer] += lacking
			rep.Unpublished += lacking
		}
		uids := m.uids(t.name)
		for _, uid := range uids {
			if lacking := int64(total - roaring64.And(t.rows, m.subs[uid].bits).GetCardinality()); lacking > 0 {
				rep.WaitingFor[uid] = lacking
			}
		}
		if held := m.held(t.name, len(uids)); held != "" && rep.Held == "" {
			rep.Held = held
		}
	}
	slices.Sort(rep.Topics)
	if !m.caughtUp {
		rep.Held = "waits for the registry: no head was seen since the relay started; is the server running, and this the right broker?"
	}
	return rep
}

// held says why rows of a topic are not released, if that is not a matter of receipts.
func (m *memory) held(topic string, readers int) string {
	t, known := m.topics[topic]
	switch {
	case !known:
		return "topic " + topic + " is not in the registry: twostep topics create " + topic
	case t.Deleted:
		return "topic " + topic + " was deleted: twostep topics create " + topic
	case readers == 0 && t.Delivery != DeliveryBroker && t.NoSubscribers != NoSubscribersDrop:
		return "topic " + topic + " has no subscription: twostep topics subscribe " + topic + " NAME"
	}
	return ""
}
