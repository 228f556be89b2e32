// Package txn is the vocabulary of global transactions: words that every part of twostep shares. It imports the standard
// library only.
package txn

import "fmt"

// Outcome is how a branch ended. It stands in barrier rows and receipts.
type Outcome string

const (
	// Success: the branch's effect is committed.
	Success Outcome = "success"
	// Parked: the message is kept durably on the consumer's side and runs later, or waits for a person.
	Parked Outcome = "parked"
	// Failure: a business failure; only a command may answer it.
	Failure Outcome = "failure"
	// Ongoing: ask again; only a command may answer it.
	Ongoing Outcome = "ongoing"
	// Dropped: a dead letter that a person dropped. Its barrier row stays, so that it never runs.
	Dropped Outcome = "dropped"
)

// ParseOutcome accepts the words above alone.
func ParseOutcome(s string) (Outcome, error) {
	switch o := Outcome(s); o {
	case Success, Parked, Failure, Ongoing, Dropped:
		return o, nil
	}
	return "", fmt.Errorf("txn: unknown outcome %q", s)
}

// Ops of branches.
const (
	OpAction = "action"
	OpMsg    = "msg"
)

// Barrier ids and branch ids with a fixed meaning.
const (
	// BarrierFirst is the barrier_id of a branch that has one barrier.
	BarrierFirst = "01"
	// BranchRoot is the branch_id of the global transaction itself.
	BranchRoot = "00"
)
