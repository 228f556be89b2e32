package ledger

import (
	"fmt"
	"maps"
	"slices"
)

// Evidence is all that is compared: what was asked for, and what fresh connections to the databases say.
type Evidence struct {
	// SendingOpening and ReceivingOpening are what the accounts held before the first transfer, from the plan.
	SendingOpening, ReceivingOpening map[string]int64
	Asked                            []Asked
	Sending, Receiving               Statement
	// Dead are the receiving bank's dead letters; Waiting counts messages it has parked that are not dead.
	Dead    []Transfer
	Waiting int
	// Unreleased counts rows left in the sending bank's outbox.
	Unreleased int
}

// Verdict is the outcome of the comparison.
type Verdict struct {
	// Committed, Refused and RolledBack are of all transfers asked for; Credited and DeadLetters of the committed ones.
	Committed, Refused, RolledBack int
	Credited, DeadLetters          int
	// MoneyBefore all accounts held together; MoneyAfter is what they and the dead letters hold.
	MoneyBefore, MoneyAfter int64
	// Problems, one sentence each, naming the transfer or the account. None: it adds up.
	Problems []string
}

// OK reports whether everything adds up.
func (v *Verdict) OK() bool { return len(v.Problems) == 0 }

func (v *Verdict) problem(format string, args ...any) {
	v.Problems = append(v.Problems, fmt.Sprintf(format, args...))
}

// Compare goes through the log transfer by transfer: a committed one was debited once, and credited once or is a dead letter; the
// others have no effect anywhere. Then through the accounts: each holds what it held at first and its entries, and no money was
// made or lost.
func Compare(e Evidence) Verdict {
	var v Verdict
	debits, credits := byTransfer(e.Sending.Entries), byTransfer(e.Receiving.Entries)
	dead := map[string][]Transfer{}
	for _, t := range e.Dead {
		dead[t.ID] = append(dead[t.ID], t)
	}
	for _, a := range e.Asked {
		v.judge(a, debits[a.ID], credits[a.ID], dead[a.ID])
		delete(debits, a.ID)
		delete(credits, a.ID)
		delete(dead, a.ID)
	}
	strangers(&v, "debited", debits)
	strangers(&v, "credited", credits)
	strangers(&v, "a dead letter", dead)
	v.accounts("sending", e.SendingOpening, e.Sending)
	v.accounts("receiving", e.ReceivingOpening, e.Receiving)
	v.sums(e)
	if e.Unreleased > 0 {
		v.problem("%d messages are still in the outbox", e.Unreleased)
	}
	if e.Waiting > 0 {
		v.problem("%d messages are parked and wait to be tried again", e.Waiting)
	}
	return v
}

func (v *Verdict) judge(a Asked, debits, credits []Entry, dead []Transfer) {
	result := a.Result
	if result == "" && len(debits) > 0 {
		result = EventCommitted
	}
	switch result {
	case EventCommitted:
		v.Committed++
	case EventRefused:
		v.Refused++
	case EventRolledBack:
		v.RolledBack++
	}
	if result != EventCommitted {
		if result == "" {
			result = "without a known result"
		}
		if n := len(debits); n > 0 {
			v.problem("transfer %s was %s, but debited %d times", a.ID, result, n)
		}
		if n := len(credits); n > 0 {
			v.problem("transfer %s was %s, but credited %d times", a.ID, result, n)
		}
		if n := len(dead); n > 0 {
			v.problem("transfer %s was %s, but is a dead letter", a.ID, result)
		}
		return
	}
	if len(debits) != 1 {
		v.problem("transfer %s was committed, but debited %d times", a.ID, len(debits))
	}
	switch {
	case len(credits) == 0 && len(dead) == 0:
		v.problem("transfer %s was committed, but neither credited nor is it a dead letter", a.ID)
	case len(credits) > 1:
		v.problem("transfer %s was credited %d times", a.ID, len(credits))
	case len(dead) > 1:
		v.problem("transfer %s is a dead letter %d times", a.ID, len(dead))
	case len(credits) == 1 && len(dead) == 1:
		v.problem("transfer %s was credited and is a dead letter too", a.ID)
	}
	if len(credits) > 0 {
		v.Credited++
	} else if len(dead) > 0 {
		v.DeadLetters++
	}
	for _, d := range debits {
		if d.Account != a.From || d.Amount != -a.Amount {
			v.problem("transfer %s takes %d from %s, but the entry says %d at %s", a.ID, a.Amount, a.From, d.Amount, d.Account)
		}
	}
	for _, c := range credits {
		if c.Account != a.To || c.Amount != a.Amount {
			v.problem("transfer %s gives %d to %s, but the entry says %d at %s", a.ID, a.Amount, a.To, c.Amount, c.Account)
		}
	}
	for _, d := range dead {
		if d != a.Transfer {
			v.problem("transfer %s has other contents as a dead letter", a.ID)
		}
	}
}

// strangers are effects of transfers that nobody asked for.
func strangers[T any](v *Verdict, what string, left map[string]T) {
	for _, id := range slices.Sorted(maps.Keys(left)) {
		v.problem("transfer %s is %s, but was never asked for", id, what)
	}
}

func (v *Verdict) accounts(bank string, opening map[string]int64, s Statement) {
	want := maps.Clone(opening)
	last := map[string]string{}
	for _, e := range s.Entries {
		want[e.Account] += e.Amount
		last[e.Account] = e.Transfer
	}
	for _, id := range slices.Sorted(maps.Keys(want)) {
		have, there := s.Balances[id]
		switch {
		case !there:
			v.problem("account %s of the %s bank is missing", id, bank)
		case have != want[id]:
			v.problem("account %s of the %s bank holds %d, its entries make %d (the last one is of transfer %s)", id, bank, have, want[id], orNone(last[id]))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(s.Balances)) {
		if _, known := want[id]; !known {
			v.problem("account %s of the %s bank was never opened", id, bank)
		}
	}
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func (v *Verdict) sums(e Evidence) {
	for _, opening := range []map[string]int64{e.SendingOpening, e.ReceivingOpening} {
		for _, b := range opening {
			v.MoneyBefore += b
		}
	}
	v.MoneyAfter = e.Sending.Sum() + e.Receiving.Sum()
	for _, t := range e.Dead {
		v.MoneyAfter += t.Amount
	}
	if d := v.MoneyAfter - v.MoneyBefore; d != 0 {
		v.problem("the accounts and dead letters hold %d, which is %+d of the %d there were", v.MoneyAfter, d, v.MoneyBefore)
	}
}

func byTransfer(entries []Entry) map[string][]Entry {
	m := make(map[string][]Entry, len(entries))
	for _, e := range entries {
		m[e.Transfer] = append(m[e.Transfer], e)
	}
	return m
}
