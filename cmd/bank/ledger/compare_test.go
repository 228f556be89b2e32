package ledger

import (
	"maps"
	"strings"
	"testing"
)

// sound is a run in which everything adds up: t1 was credited, t2 is a dead letter, t3 was refused, t4 rolled back, and the process
// ended before it knew of t5 (committed) and t6 (not).
func sound() Evidence {
	t := func(id, from, to string, amount int64) Transfer {
		return Transfer{ID: id, From: from, To: to, Amount: amount}
	}
	t1, t2, t5 := t("t1", "a-1", "b-1", 10), t("t2", "a-1", "b-2", 20), t("t5", "a-2", "b-1", 5)
	return Evidence{
		SendingOpening: map[string]int64{"a-1": 100, "a-2": 100}, ReceivingOpening: map[string]int64{"b-1": 50, "b-2": 50},
		Asked: []Asked{
			{t1, EventCommitted}, {t2, EventCommitted}, {t("t3", "a-2", "b-1", 1000), EventRefused},
			{t("t4", "a-2", "b-1", 7), EventRolledBack}, {t5, ""}, {t("t6", "a-2", "b-2", 9), ""},
		},
		Sending: Statement{
			Balances: map[string]int64{"a-1": 70, "a-2": 95},
			Entries:  []Entry{{1, "t1", "a-1", -10}, {2, "t2", "a-1", -20}, {3, "t5", "a-2", -5}},
		},
		Receiving: Statement{
			Balances: map[string]int64{"b-1": 65, "b-2": 50},
			Entries:  []Entry{{1, "t1", "b-1", 10}, {2, "t5", "b-1", 5}},
		},
		Dead: []Transfer{t2},
	}
}

func TestCompareSoundRun(t *testing.T) {
	t.Parallel()
	v := Compare(sound())
	if !v.OK() {
		t.Fatalf("problems: %q", v.Problems)
	}
	v.Problems = nil
	want := Verdict{Committed: 3, Refused: 1, RolledBack: 1, Credited: 2, DeadLetters: 1, MoneyBefore: 300, MoneyAfter: 300}
	if v.Committed != want.Committed || v.Refused != want.Refused || v.RolledBack != want.RolledBack || v.Credited != want.Credited ||
		v.DeadLetters != want.DeadLetters || v.MoneyBefore != want.MoneyBefore || v.MoneyAfter != want.MoneyAfter {
		t.Errorf("got %+v, want %+v", v, want)
	}
}

// TestCompareFindsIt spoils a sound run in one way each; the verdict must name what is wrong.
func TestCompareFindsIt(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(*Evidence)
		want  string
	}{
		"credit dropped": {func(e *Evidence) {
			e.Receiving.Entries = e.Receiving.Entries[1:]
			e.Receiving.Balances["b-1"] -= 10
		}, "transfer t1 was committed, but neither credited"},
		"credit doubled": {func(e *Evidence) {
			e.Receiving.Entries = append(e.Receiving.Entries, Entry{3, "t5", "b-1", 5})
			e.Receiving.Balances["b-1"] += 5
		}, "transfer t5 was credited 2 times"},
		"credited and dead": {func(e *Evidence) {
			e.Receiving.Entries = append(e.Receiving.Entries, Entry{3, "t2", "b-2", 20})
			e.Receiving.Balances["b-2"] += 20
		}, "transfer t2 was credited and is a dead letter too"},
		"dead letter lost":      {func(e *Evidence) { e.Dead = nil }, "transfer t2 was committed, but neither credited"},
		"dead letter twice":     {func(e *Evidence) { e.Dead = append(e.Dead, e.Dead[0]) }, "transfer t2 is a dead letter 2 times"},
		"dead letter falsified": {func(e *Evidence) { e.Dead[0].Amount = 21 }, "transfer t2 has other contents"},
		"refused but credited": {func(e *Evidence) {
			e.Receiving.Entries = append(e.Receiving.Entries, Entry{3, "t3", "b-1", 1000})
			e.Receiving.Balances["b-1"] += 1000
		}, "transfer t3 was refused, but credited 1 times"},
		"rolled back but debited": {func(e *Evidence) {
			e.Sending.Entries = append(e.Sending.Entries, Entry{4, "t4", "a-2", -7})
			e.Sending.Balances["a-2"] -= 7
		}, "transfer t4 was rolled_back, but debited 1 times"},
		"rolled back but dead": {func(e *Evidence) { e.Dead = append(e.Dead, e.Asked[3].Transfer) }, "transfer t4 was rolled_back, but is a dead letter"},
		"not committed but credited": {func(e *Evidence) {
			e.Receiving.Entries = append(e.Receiving.Entries, Entry{3, "t6", "b-2", 9})
			e.Receiving.Balances["b-2"] += 9
		}, "transfer t6 was without a known result, but credited"},
		"acknowledged debit lost": {func(e *Evidence) {
			e.Sending.Entries = e.Sending.Entries[1:]
			e.Sending.Balances["a-1"] += 10
		}, "transfer t1 was committed, but debited 0 times"},
		"wrong account": {func(e *Evidence) {
			e.Receiving.Entries[0].Account = "b-2"
			e.Receiving.Balances["b-1"] -= 10
			e.Receiving.Balances["b-2"] += 10
		}, "transfer t1 gives 10 to b-1, but the entry says 10 at b-2"},
		"balance changed":     {func(e *Evidence) { e.Receiving.Balances["b-1"]++ }, "account b-1 of the receiving bank holds 66, its entries make 65 (the last one is of transfer t5)"},
		"money moved by hand": {func(e *Evidence) { e.Sending.Balances["a-1"]--; e.Sending.Balances["a-2"]++ }, "account a-1 of the sending bank holds 69"},
		"account missing":     {func(e *Evidence) { delete(e.Receiving.Balances, "b-2") }, "account b-2 of the receiving bank is missing"},
		"account invented":    {func(e *Evidence) { e.Receiving.Balances["b-9"] = 0 }, "account b-9 of the receiving bank was never opened"},
		"never asked": {func(e *Evidence) {
			e.Sending.Entries = append(e.Sending.Entries, Entry{4, "t9", "a-2", -1})
			e.Sending.Balances["a-2"]--
		}, "transfer t9 is debited, but was never asked for"},
		"outbox not empty": {func(e *Evidence) { e.Unreleased = 2 }, "2 messages are still in the outbox"},
		"still parked":     {func(e *Evidence) { e.Waiting = 1 }, "1 messages are parked"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := sound()
			e.Sending.Balances, e.Receiving.Balances = maps.Clone(e.Sending.Balances), maps.Clone(e.Receiving.Balances)
			c.spoil(&e)
			v := Compare(e)
			if v.OK() || !strings.Contains(strings.Join(v.Problems, "\n"), c.want) {
				t.Errorf("problems %q, want one with %q", v.Problems, c.want)
			}
		})
	}
}
