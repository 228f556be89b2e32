package topics_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/orchestrator/txn"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

// message is what the model knows of one message.
type message struct {
	n          int
	id         string
	box        *box
	seq        int64
	topic, key string
	state      messageState
	// order of commits; messages of one transaction in the order of their inserts.
	order int
	// must: the subscriptions that own it: recorded in the outbox when it was committed, or while it was unreleased.
	must map[string]bool
	// executed: its handlers' committed effects, by subscription.
	executed map[string]int
	// died: it was a dead letter once, so its place in the order is lost where dead letters do not hold their key.
	died map[string]bool
	// poison: its handler always fails, until a person has mended what was wrong.
	poison bool
}

type messageState string

const (
	messageOpen       messageState = "open"
	messageCommitted  messageState = "committed"
	messageRolledBack messageState = "rolled back"
	// messageLost: committed, and then the database was put back to a state before it.
	messageLost messageState = "lost"
)

func (m *message) String() string {
	return fmt.Sprintf("m%d(%s %s#%d key %q %s)", m.n, m.topic, m.box.name, m.seq, m.key, m.state)
}

// chain is what one subscription executed of one key.
type chain struct {
	uid string
	box *box
	key string
}

// effect is called when a handler's effect commits.
func (w *world) effect(sub *subscription, d broker.Delivery) {
	m := w.byID[d.ID]
	w.log("  effect of m%d for %s", m.n, sub.name)
	m.executed[sub.uid]++
	w.executions++
	switch {
	case m.state == messageOpen || m.state == messageRolledBack:
		w.fail("%s was executed by %s", m, sub)
	case m.executed[sub.uid] > 1:
		w.fail("%s was executed %d times by %s", m, m.executed[sub.uid], sub)
	}
	if m.key == "" || m.state == messageLost || m.died[sub.uid] || !m.must[sub.uid] || sub.removed {
		return // order covers what the subscription owns
	}
	c := chain{sub.uid, m.box, m.key}
	if last := w.chains[c]; last != nil && last.order > m.order {
		w.fail("%s executed %s after %s", sub, m, last)
	}
	w.chains[c] = m
}

// released is called when a relay is about to delete rows: everybody who owns them must have them.
func (w *world) released(by string, rows []outbox.RowID) {
	for _, r := range rows {
		m := w.byID[r.ID]
		for _, uid := range sortedKeysOf(m.must) {
			if sub := w.subs[uid]; !sub.removed && sub.db.Outcome(uid, m.id) == "" {
				w.fail("%s releases %s, which %s has neither executed nor parked", by, m, sub)
			}
		}
	}
}

// owned notes that a subscription owns what is unreleased in an outbox.
func (w *world) owned(b *box) {
	recorded := b.store.Recorded()
	for _, row := range b.store.Rows() {
		m := w.byID[row.ID]
		for uid, bits := range recorded {
			if uid != outbox.BrokerConfirmer && bits.Subscription.Topic == m.topic && !bits.Subscription.Removed {
				m.must[uid] = true
			}
		}
	}
}

// missing tells which subscription of those that run owns a message and has neither executed it nor keeps it for a person.
func (w *world) missing() (left []string) {
	for _, m := range w.messages {
		if m.state != messageCommitted {
			continue
		}
		for _, uid := range sortedKeysOf(m.must) {
			sub := w.subs[uid]
			if sub.removed || sub.absent || m.executed[uid] == 1 {
				continue
			}
			if o := sub.db.Outcome(uid, m.id); o != txn.Dropped && (o != txn.Parked || !w.deadOrHeld(sub, m)) {
				left = append(left, fmt.Sprintf("%s not executed by %s: outcome %q", m, sub, o))
			}
		}
	}
	return left
}

// unfinished tells what is left to do; empty: it is quiet.
func (w *world) unfinished() string {
	left := w.missing()
	for _, b := range w.boxes {
		for _, row := range b.store.Rows() {
			if m := w.byID[row.ID]; !w.mayStay(m) {
				left = append(left, fmt.Sprintf("%s in the outbox", m))
			}
		}
		if inbox := outbox.Inbox(b.uuid); w.broker.Waiting(inbox) > 0 {
			left = append(left, fmt.Sprintf("%d receipts", w.broker.Waiting(inbox)))
		}
	}
	for _, uid := range sortedKeysOf(w.subs) {
		sub := w.subs[uid]
		if !sub.live || sub.absent {
			continue
		}
		parked, err := sub.db.Parked(w.ctx, topics.ParkedQuery{Subscription: uid, Limit: 10_000})
		if err != nil {
			w.fail("parked: %v", err)
		}
		for _, p := range parked {
			if m := w.byID[p.Message.ID]; !w.deadOrHeld(sub, m) {
				left = append(left, fmt.Sprintf("%s parked at %s", m, sub))
			}
		}
	}
	if !w.broker.Idle() {
		left = append(left, "publishes under way")
	}
	if len(left) > 12 {
		left = append(left[:12], fmt.Sprintf("and %d more", len(left)-12))
	}
	return strings.Join(left, "; ")
}

// mayStay: somebody who owns it is away, or nobody is there at all.
func (w *world) mayStay(m *message) bool {
	readers := 0
	for _, sub := range w.subs {
		if sub.topic != m.topic || !sub.live {
			continue
		}
		readers++
		if sub.absent {
			return true
		}
	}
	return readers == 0
}

func sortedKeysOf[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// counts says what a run of seeds has exercised.
type counts struct {
	messages, executions                                   int
	kills, wipes, failovers, restores, takeovers           int
	stops, rollbacks, poisons, deaths, replays, registries int
	// reused row numbers; early releases, while faults were still going on.
	reused, early int
}

func (c *counts) add(o *counts) {
	c.messages += o.messages
	c.executions += o.executions
	c.kills += o.kills
	c.wipes += o.wipes
	c.failovers += o.failovers
	c.restores += o.restores
	c.takeovers += o.takeovers
	c.stops += o.stops
	c.rollbacks += o.rollbacks
	c.poisons += o.poisons
	c.deaths += o.deaths
	c.replays += o.replays
	c.registries += o.registries
	c.reused += o.reused
	c.early += o.early
}

func (c counts) String() string {
	return fmt.Sprintf("%d messages, %d executions, %d kills, %d pauses, %d takeovers, %d wiped brokers, %d failovers, %d restores, %d lost registries, %d rollbacks, %d poisoned, %d dead letters, %d replays, %d numbers used again, %d rows released before the healing",
		c.messages, c.executions, c.kills, c.stops, c.takeovers, c.wipes, c.failovers, c.restores, c.registries, c.rollbacks, c.poisons, c.deaths, c.replays, c.reused, c.early)
}

// demand fails if the seeds did not exercise what they are for.
func (c counts) demand(t *testing.T, seeds int64) {
	t.Helper()
	n := int(seeds)
	for what, enough := range map[string]bool{
		"messages": c.messages >= 15*n, "executions": c.executions >= 10*n, "kills": c.kills >= n, "takeovers": c.takeovers >= n,
		"wiped brokers": c.wipes >= n/2, "failovers": c.failovers >= n/2, "dead letters": c.deaths >= n/4, "rollbacks": c.rollbacks >= n,
	} {
		if n >= 100 && !enough {
			t.Errorf("too few %s: %s", what, c)
		}
	}
}
