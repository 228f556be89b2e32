package ledger

import "testing"

func TestPlanIsTheSameEachTime(t *testing.T) {
	t.Parallel()
	p := Plan{Seed: 42, Transfers: 2000, Accounts: 150}
	ids, keys := map[string]bool{}, map[string]bool{}
	fails := 0
	for i := range p.Transfers {
		tr := p.Transfer(i)
		if tr != p.Transfer(i) {
			t.Fatalf("transfer %d differs", i)
		}
		if tr.Amount < 1 || tr.Amount > maxAmount {
			t.Errorf("amount %d", tr.Amount)
		}
		ids[tr.ID], keys[tr.To] = true, true
		if p.Chance("fails", tr.ID, 20) {
			fails++
		}
	}
	if len(ids) != p.Transfers || len(keys) != p.Accounts {
		t.Errorf("%d ids and %d accounts, want %d and %d", len(ids), len(keys), p.Transfers, p.Accounts)
	}
	if fails < 15 || fails > 80 {
		t.Errorf("%d of %d happen, want about 40", fails, p.Transfers)
	}
	if other := (Plan{Seed: 43, Transfers: 2000, Accounts: 150}); other.Transfer(7) == p.Transfer(7) {
		t.Error("another seed gives the same transfer")
	}
}

func TestPlanRefusesNonsense(t *testing.T) {
	t.Parallel()
	for _, p := range []Plan{{Transfers: 0, Accounts: 10}, {Transfers: 10, Accounts: 1}, {Transfers: -1, Accounts: 10}, {Transfers: 1_000_001, Accounts: 10}} {
		if p.Validate() == nil {
			t.Errorf("%+v is valid", p)
		}
	}
}
