package topics

import (
	"cmp"
	"slices"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/orchestrator/txn"
)

// verdict is what is done with one message of a batch.
type verdict int

const (
	// verdictRun: the handler runs.
	verdictRun verdict = iota
	// verdictDuplicate: its barrier row was there; the receipt repeats the stored outcome.
	verdictDuplicate
	// verdictShare: the same message stands earlier in the batch; it has that one's outcome.
	verdictShare
	// verdictHold: something before it in its key is parked, so it is parked behind that.
	verdictHold
	// verdictSuspect: the broker handed it out before and it was not settled; it is parked and runs singly, counted.
	verdictSuspect
	// verdictRefuse: its predecessor has not come. It is settled without a receipt, and the relay sends it again in order.
	verdictRefuse
)

// item is one message of a batch on its way through the dispatcher.
type item struct {
	broker.Delivery
	verdict verdict
	// first is what a verdictShare shares with.
	first *item
	// outcome is the word for the receipt, set when it is committed. Empty: none (yet, or refused).
	outcome txn.Outcome
	// settled: nothing is left to do. told: its receipt was handed to the broker.
	settled, told bool
}

func itemsOf(batch []broker.Delivery) []*item {
	all := make([]item, len(batch))
	items := make([]*item, len(batch))
	for i, d := range batch {
		all[i].Delivery = sound(d)
		items[i] = &all[i]
	}
	return items
}

// facts are what the database knew about a batch.
type facts struct {
	// prior is, by message id, the outcome in the barrier row that was there before; missing or empty: none.
	prior map[string]txn.Outcome
	// claimed tells which predecessors from outside the batch have a barrier row.
	claimed map[string]bool
	// parked tells which keys have parked messages.
	parked map[string]bool
}

// decide sets the verdict of each item, in message order. It is pure: locks are taken in another order later, the decision is not.
func decide(items []*item, f facts) {
	taken := make(map[string]*item, len(items))
	var blocked map[string]bool
	for _, it := range items {
		it.first, it.outcome = nil, ""
		prior := f.prior[it.ID]
		switch {
		case prior != "":
			it.verdict, it.outcome = verdictDuplicate, receiptWord(prior)
			continue
		case taken[it.ID] != nil:
			it.verdict, it.first = verdictShare, taken[it.ID]
			continue
		case it.Prev != "" && taken[it.Prev] == nil && f.prior[it.Prev] == "" && !f.claimed[it.Prev]:
			it.verdict = verdictRefuse
			continue
		case it.Key != "" && (f.parked[it.Key] || blocked[it.Key]):
			it.verdict = verdictHold
		case it.Redelivered:
			it.verdict = verdictSuspect
		default:
			it.verdict = verdictRun
		}
		taken[it.ID] = it
		if it.Key != "" && it.verdict == verdictSuspect {
			if blocked == nil {
				blocked = map[string]bool{}
			}
			blocked[it.Key] = true
		}
	}
}

// receiptWord is what a receipt says of a message whose barrier row has the outcome: the sender has no use for what became of it
// after it was parked.
func receiptWord(o txn.Outcome) txn.Outcome {
	if o == txn.Dropped {
		return txn.Parked
	}
	return o
}

// withVerdict selects, in message order.
func withVerdict(items []*item, vs ...verdict) []*item {
	var out []*item
	for _, it := range items {
		if slices.Contains(vs, it.verdict) {
			out = append(out, it)
		}
	}
	return out
}

// inKeyOrder sorts for locking: handlers of two batches then take their rows in the same order. Messages of one key stay in message
// order.
func inKeyOrder(items []*item) []*item {
	out := slices.Clone(items)
	slices.SortStableFunc(out, func(a, b *item) int { return cmp.Compare(a.Key, b.Key) })
	return out
}

// idsOf lists the distinct message ids, in order of first appearance.
func idsOf(items []*item) []string {
	ids := make([]string, 0, len(items))
	seen := make(map[string]bool, len(items))
	for _, it := range items {
		if !seen[it.ID] {
			seen[it.ID] = true
			ids = append(ids, it.ID)
		}
	}
	return ids
}

// keysOf lists the distinct ordering keys.
func keysOf(items []*item) []string {
	var keys []string
	seen := map[string]bool{}
	for _, it := range items {
		if it.Key != "" && !seen[it.Key] {
			seen[it.Key] = true
			keys = append(keys, it.Key)
		}
	}
	return keys
}

// strangersOf lists the distinct predecessors that are not in the batch themselves.
func strangersOf(items []*item) []string {
	var prevs []string
	seen := make(map[string]bool, len(items))
	for _, it := range items {
		seen[it.ID] = true
	}
	for _, it := range items {
		if it.Prev != "" && !seen[it.Prev] {
			seen[it.Prev] = true
			prevs = append(prevs, it.Prev)
		}
	}
	return prevs
}
