package ledger

import "time"

// Asked is a transfer of the log and what is known of it. Result is empty where the process ended before it knew: then the
// sending bank's database decides.
type Asked struct {
	Transfer
	Result Event
}

// History is what a log says.
type History struct {
	// Asked in the order they were first asked for.
	Asked []Asked
	// Starts of processes; Finished: the last one had nothing left to do.
	Starts   int
	Finished bool
	// Counts are the sums of the last counts of each process.
	Counts map[string]int64
	// Active is how long processes worked: of each from its start to its last record.
	Active time.Duration
}

// HistoryOf sums a log up.
func HistoryOf(records []Record) History {
	h := History{Counts: map[string]int64{}}
	at := map[string]int{}
	var life map[string]int64
	var started, last int64
	end := func() {
		for name, n := range life {
			h.Counts[name] += n
		}
		h.Active += time.Duration(last-started) * time.Millisecond
		life = nil
	}
	for _, r := range records {
		switch r.Event {
		case EventStarted:
			end()
			h.Starts++
			started = r.At
		case EventAsked:
			if r.Transfer == nil {
				continue
			}
			if _, again := at[r.Transfer.ID]; !again {
				at[r.Transfer.ID] = len(h.Asked)
				h.Asked = append(h.Asked, Asked{Transfer: *r.Transfer})
			}
		case EventCommitted, EventRefused, EventRolledBack:
			if i, ok := at[r.ID]; ok {
				h.Asked[i].Result = r.Event
			}
		case EventCounts:
			life = r.Counts
		case EventFinished:
			h.Finished = true
		}
		last = r.At
	}
	end()
	return h
}
