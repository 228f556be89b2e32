package topics_test

import (
	"time"

	topicsmem "github.com/twostep-mq/twostep/topics/topicstest/memory"
)

// stepFault lets something break, while there are faults left.
func (w *world) stepFault() {
	if w.faults == 0 {
		return
	}
	w.faults--
	b := w.boxes[w.rng.IntN(len(w.boxes))]
	switch n := w.rng.IntN(100); {
	case n < 18:
		w.killRelay(b)
	case n < 30:
		w.stopRelay(b)
	case n < 45:
		w.killConsumer()
	case n < 52:
		w.stopConsumer()
	case n < 62:
		w.wipeBroker()
	case n < 72:
		w.failover(b)
	case n < 75:
		w.restore(b)
	case n < 80:
		w.restartOwner()
	case n < 82:
		w.loseRegistry()
	case n < 88:
		w.disturbReader()
	case n < 94:
		w.cut()
	default:
		w.losePublishes()
	}
}

func (w *world) killRelay(b *box) {
	r := b.relays[w.rng.IntN(len(b.relays))]
	if w.rng.IntN(2) == 0 && b.leader != nil {
		r = b.leader
	}
	if r.dead {
		return
	}
	w.kills++
	r.kill(func() {})
	w.startRelay(b)
}

// stopRelay is SIGSTOP, often past the lease.
func (w *world) stopRelay(b *box) {
	r := b.leader
	if r == nil || r.dead {
		return
	}
	w.stops++
	r.asleep = w.now.Add(time.Duration(1+w.rng.IntN(15)) * time.Second)
	w.log("%s: sleeps", r.name)
}

func (w *world) killConsumer() {
	if len(w.consumers) == 0 {
		return
	}
	c := w.consumers[w.rng.IntN(len(w.consumers))]
	if c.dead {
		return
	}
	w.kills++
	c.kill(c.release)
}

// stopConsumer stops one, and lets the broker hand out what it has to others.
func (w *world) stopConsumer() {
	if len(w.consumers) == 0 {
		return
	}
	c := w.consumers[w.rng.IntN(len(w.consumers))]
	if c.dead || c.tx != nil { // an open transaction holds up everybody, which is no fault of interest
		return
	}
	w.stops++
	c.asleep = w.now.Add(time.Duration(1+w.rng.IntN(8)) * time.Second)
	w.log("%s: sleeps", c.name)
	w.broker.Expire(c.conn)
}

func (w *world) wipeBroker() {
	w.wipes++
	w.log("the broker is wiped")
	w.broker.Wipe()
}

// failover: a replica with everything that was committed takes over; open transactions end, numbers come back.
func (w *world) failover(b *box) {
	w.failovers++
	w.log("%s: failover", b.name)
	b.store.Failover()
}

// restore puts the outbox back to an older state. What was committed since is lost, as no promise covers it.
func (w *world) restore(b *box) {
	if b.backup == nil {
		backup := b.store.Backup()
		b.backup = &backup
		for _, m := range w.messages {
			if m.box == b && m.state == messageCommitted {
				if b.backedUp == nil {
					b.backedUp = map[*message]bool{}
				}
				b.backedUp[m] = true
			}
		}
		w.log("%s: backup", b.name)
		return
	}
	w.restores++
	w.log("%s: restored from its backup", b.name)
	b.store.Restore(*b.backup)
	b.leader = nil
	for _, r := range b.relays {
		if r.name == b.store.Owner().Owner {
			b.leader = r
		}
	}
	for _, m := range w.messages {
		if m.box == b && m.state == messageCommitted && !b.backedUp[m] {
			m.state = messageLost
		}
	}
	recorded := b.store.Recorded()
	for _, row := range b.store.Rows() {
		m := w.byID[row.ID]
		for uid := range m.must {
			if _, known := recorded[uid]; !known && m.executed[uid] == 0 {
				delete(m.must, uid)
			}
		}
	}
	b.backup, b.backedUp = nil, nil
}

// restartOwner starts another one; the former is dead, or only thought to be.
func (w *world) restartOwner() {
	o := w.owners[len(w.owners)-1]
	if !o.dead && w.rng.IntN(3) > 0 {
		w.kills++
		o.kill(func() {})
	}
	w.startOwner()
}

// loseRegistry: the server comes back with an empty database, and with it a new owner.
func (w *world) loseRegistry() {
	w.registries++
	for _, o := range w.owners {
		if !o.dead {
			o.kill(func() {})
		}
	}
	w.log("the registry is lost")
	w.registry = topicsmem.NewRegistry(w.newUUID())
	w.startOwner()
}

// disturbReader moves a reader on the broker back, or on without anybody having seen what it passes; or drops the oldest messages.
func (w *world) disturbReader() {
	uids := sortedKeysOf(w.subs)
	if len(uids) == 0 {
		return
	}
	s := w.subs[uids[w.rng.IntN(len(uids))]]
	switch w.rng.IntN(3) {
	case 0:
		w.log("the reader of %s goes back", s)
		w.broker.Rewind(s.topic, s.uid, 1+w.rng.IntN(5))
	case 1:
		w.log("the reader of %s skips", s)
		w.broker.Skip(s.topic, s.uid)
	default:
		w.log("%s drops its oldest", s.topic)
		w.broker.Trim(s.topic, 1+w.rng.IntN(5))
	}
}

// cut takes a process's connection to the broker away, or mends all.
func (w *world) cut() {
	var all []*proc
	for _, b := range w.boxes {
		for _, r := range b.relays {
			all = append(all, &r.proc)
		}
	}
	for _, c := range w.consumers {
		all = append(all, &c.proc)
	}
	all = append(all, &w.owners[len(w.owners)-1].proc)
	if w.rng.IntN(2) == 0 {
		p := all[w.rng.IntN(len(all))]
		w.log("%s: cut off", p.name)
		p.conn.SetDown(true)
		return
	}
	for _, p := range all {
		p.conn.SetDown(false)
	}
}

// losePublishes loses everything that is on its way in or back.
func (w *world) losePublishes() {
	w.log("all publishes under way are lost")
	for len(w.broker.Publishing()) > 0 {
		for _, p := range w.broker.Publishing() {
			p.Lose()
		}
	}
}
