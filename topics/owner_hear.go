package topics

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/outbox"
)

// heard is what the broker's state told the owner.
type heard struct {
	// current: it was read to its end at least once since it began or was lost.
	current bool
	// reports by outbox UUID. They survive a lost state: what an outbox has recorded it does not forget.
	reports map[string]heardReport
	// versions by owner: the highest that was announced, or that an outbox has recorded. Under "" those without an owner's name.
	versions map[string]int64
}

type heardReport struct {
	outbox.Report
	at time.Time
}

func newHeard() heard {
	return heard{reports: map[string]heardReport{}, versions: map[string]int64{}}
}

// highest is the highest version that anybody has seen.
func (h *heard) highest() int64 {
	var v int64
	for _, seen := range h.versions {
		v = max(v, seen)
	}
	return v
}

// outdone reports whether an announcement of owner at version would be below one that was seen: of its own in another life (a restored
// store), or of another owner at the same version.
func (h *heard) outdone(owner string, version int64) bool {
	for by, seen := range h.versions {
		if seen > version || seen == version && by != owner && by != "" {
			return true
		}
	}
	return false
}

func (h *heard) see(owner string, version int64) {
	h.versions[owner] = max(h.versions[owner], version)
}

// hear notes an event, and reports whether there may be something to do. It does no I/O.
func (o *Owner) hear(ev broker.StateEvent) (due bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case ev.Reset:
		o.heard.current = false
		return false
	case ev.Current:
		o.heard.current = true
		o.todo.takeover = true
		return true
	case ev.Key == outbox.StateHead:
		return o.hearHead(ev)
	case strings.HasPrefix(ev.Key, outbox.StateTopicPrefix):
		return o.hearTopic(ev)
	case strings.HasPrefix(ev.Key, outbox.StateReportPrefix):
		return o.hearReport(ev)
	case strings.HasPrefix(ev.Key, outbox.StateDeclarePrefix):
		return o.hearDeclaration(ev)
	}
	return false
}

func (o *Owner) hearHead(ev broker.StateEvent) (due bool) {
	var head outbox.RegistryHead
	if ev.Value == nil {
		return false
	}
	if err := json.Unmarshal(ev.Value, &head); err != nil {
		o.log.Error("registry head is malformed and ignored", "error", err)
		return false
	}
	o.heard.see(head.Owner, head.Version)
	switch {
	case !o.heard.current || !o.loaded:
	case head.Owner != o.reg.owner:
		// No answer to it, or two owners would outdo each other for ever; the next change goes above it.
		o.log.Error("another server with another store announces a registry on this broker: stop one of them", "other_owner", head.Owner, "other_version", head.Version)
	case head.Version < o.reg.version:
		// A server with the same store that was thought dead has put an older head over ours.
		o.todo.head = true
		return true
	case head.Version > o.reg.version:
		o.loaded = false // a server with the same store was faster: read what it has changed
		return true
	}
	return false
}

func (o *Owner) hearTopic(ev broker.StateEvent) bool {
	var t outbox.RegistryTopic
	if ev.Value == nil {
		return false
	}
	err := json.Unmarshal(ev.Value, &t)
	if err == nil {
		t.TopicSettings = withDefaultSettings(t.TopicSettings)
		err = checkTopic(t.Name, t.TopicSettings)
	}
	if err != nil {
		o.log.Error("registry entry is malformed and ignored", "key", ev.Key, "error", err)
		return false
	}
	if o.loaded && t.Version <= o.reg.version && o.reg.topics[t.Name].Version == t.Version {
		return false // our own
	}
	if o.loaded && t.Version < o.reg.topics[t.Name].Version {
		// An owner that was thought dead has put an older state over ours.
		o.todo.announce[t.Name], o.todo.head = true, true
	}
	o.heard.see("", t.Version)
	o.todo.topics[t.Name] = t
	return true
}

func (o *Owner) hearReport(ev broker.StateEvent) bool {
	uuid := strings.TrimPrefix(ev.Key, outbox.StateReportPrefix)
	if ev.Value == nil {
		delete(o.heard.reports, uuid)
		return false
	}
	var r outbox.Report
	if err := json.Unmarshal(ev.Value, &r); err != nil || r.Outbox != uuid {
		o.log.Error("relay's report is malformed and ignored", "key", ev.Key, "error", err)
		return false
	}
	o.heard.reports[uuid] = heardReport{Report: r, at: o.cfg.Now()}
	o.heard.see(r.Owner, r.Version)
	o.todo.reports[uuid] = r
	return true
}

func (o *Owner) hearDeclaration(ev broker.StateEvent) bool {
	if ev.Value == nil {
		delete(o.todo.declarations, ev.Key)
		return false
	}
	d, err := decodeDeclaration(ev.Key, ev.Value)
	if err != nil {
		o.log.Error("declaration is ignored", "key", ev.Key, "error", err)
		return false
	}
	o.todo.declarations[ev.Key] = d
	return true
}
