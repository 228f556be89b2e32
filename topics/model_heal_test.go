package topics_test

import (
	"time"

	"github.com/twostep-mq/twostep/outbox"
)

// heal ends all faults and lets everything run until nothing is left to do.
func (w *world) heal() {
	w.log("--- healing ---")
	w.healing = true
	w.finishAll()
	if w.rng.IntN(3) > 0 {
		for _, uid := range sortedKeysOf(w.subs) {
			w.subs[uid].absent = false
		}
	}
	const rounds, quietRounds = 400, 8
	quiet := 0
	for range rounds {
		w.round()
		if w.err != nil {
			return
		}
		if w.unfinished() != "" {
			quiet = 0
		} else if quiet++; quiet == quietRounds {
			return
		}
	}
	for _, uid := range sortedKeysOf(w.subs) {
		ps, err := w.broker.Connect("autopsy").Positions(w.ctx, w.subs[uid].topic, []string{uid})
		w.log("%s: %+v %v", w.subs[uid], ps, err)
	}
	for _, b := range w.boxes {
		w.log("%s reports %s", b.name, w.broker.Value(outbox.StateReportPrefix+b.uuid))
	}
	w.fail("not quiet after %d rounds: %s", rounds, w.unfinished())
}

// finishAll mends connections, ends open transactions and lets every task run to its end.
func (w *world) finishAll() {
	for _, b := range w.boxes {
		for _, s := range b.senders {
			s.end()
		}
	}
	for _, p := range w.living() {
		p.asleep = time.Time{}
		p.conn.SetDown(false)
	}
	w.finishTasks()
	for _, p := range w.living() {
		if p.busy() {
			w.fail("%s does not come to an end: %s", p.name, p.task.where)
		}
	}
}

// living lists all processes that run, in a fixed order.
func (w *world) living() (all []*proc) {
	for _, o := range w.owners {
		if !o.dead {
			all = append(all, &o.proc)
		}
	}
	for _, b := range w.boxes {
		for _, r := range b.relays {
			if !r.dead {
				all = append(all, &r.proc)
			}
		}
	}
	for _, c := range w.consumers {
		if !c.dead {
			all = append(all, &c.proc)
		}
	}
	return all
}

// finishTasks lets the tasks of those who are awake run to their ends, as far as nobody who sleeps holds them up.
func (w *world) finishTasks() {
	for range 100 {
		busy := false
		for _, p := range w.living() {
			for range 100 {
				if !p.busy() || !p.awake() || w.err != nil {
					break
				}
				p.goOn()
			}
			busy = busy || p.busy() && p.awake()
		}
		if !busy {
			return
		}
	}
}

// calm is a time without faults in the middle of the schedule: much is released, and the outboxes may become empty.
func (w *world) calm() {
	w.log("--- calm ---")
	w.healing = true
	w.finishTasks()
	for range 1 + w.rng.IntN(12) {
		w.round()
	}
	w.healing = false
	w.log("--- calm is over ---")
}

// round lets everybody who is awake do all there is to do, once.
func (w *world) round() {
	w.now = w.now.Add(150 * time.Millisecond)
	w.log("--- round ---")
	w.roundOwner()
	for _, b := range w.boxes {
		alive := 0
		for _, r := range b.relays {
			if !r.dead {
				alive++
			}
		}
		if alive == 0 {
			w.startRelay(b)
		}
		for _, r := range b.relays {
			r.round()
		}
	}
	w.broker.PublishAll()
	for _, uid := range sortedKeysOf(w.subs) {
		w.subs[uid].round()
	}
	w.noticeSubscriptions()
}
