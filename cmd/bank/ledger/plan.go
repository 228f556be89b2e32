package ledger

import (
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"strconv"
)

// Plan says which transfers there are. The same plan gives the same transfers, so a run that was killed can be continued.
type Plan struct {
	Seed uint64 `json:"seed"`
	// Transfers is how many are asked for, Accounts how many each of the two banks has.
	Transfers int `json:"transfers"`
	Accounts  int `json:"accounts"`
}

// What the accounts hold at first, in cents. Every poorEvery-th account of the sending bank is poor, and most debits from
// it are refused.
const (
	maxAmount     = 100
	poorEvery     = 20
	poorOpening   = maxAmount
	receivingHave = 1_000
)

// Validate says what is wrong with the plan.
func (p Plan) Validate() error {
	if p.Transfers < 1 || p.Transfers > 1_000_000 {
		return fmt.Errorf("ledger: %d transfers: use 1 to 1000000", p.Transfers)
	}
	if p.Accounts < 2 || p.Accounts > 100_000 {
		return errors.New("ledger: a bank needs 2 to 100000 accounts")
	}
	return nil
}

// Transfer number i, from 0.
func (p Plan) Transfer(i int) Transfer {
	r := rand.New(rand.NewPCG(p.Seed, uint64(i)))
	return Transfer{
		ID:   "t" + strconv.FormatUint(p.Seed, 36) + "-" + fmt.Sprintf("%06d", i),
		From: SendingAccount(r.IntN(p.Accounts)), To: ReceivingAccount(r.IntN(p.Accounts)),
		Amount: 1 + r.Int64N(maxAmount),
	}
}

// SendingAccount names account i of the sending bank.
func SendingAccount(i int) string { return fmt.Sprintf("a-%03d", i) }

// ReceivingAccount names account i of the receiving bank.
func ReceivingAccount(i int) string { return fmt.Sprintf("b-%03d", i) }

// Sending is what the accounts of the sending bank hold at first: enough, but for a few poor ones.
func (p Plan) Sending() map[string]int64 {
	enough := max(10*maxAmount, int64(3*p.Transfers/p.Accounts)*maxAmount)
	opening := make(map[string]int64, p.Accounts)
	for i := range p.Accounts {
		opening[SendingAccount(i)] = enough
		if i%poorEvery == poorEvery-1 {
			opening[SendingAccount(i)] = poorOpening
		}
	}
	return opening
}

// Receiving is what the accounts of the receiving bank hold at first.
func (p Plan) Receiving() map[string]int64 {
	opening := make(map[string]int64, p.Accounts)
	for i := range p.Accounts {
		opening[ReceivingAccount(i)] = receivingHave
	}
	return opening
}

// Chance decides for a transfer, the same way each time, whether something happens to it that happens to perMille of a thousand.
func (p Plan) Chance(what, transfer string, perMille int) bool {
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%d/%s/%s", p.Seed, what, transfer)
	// FNV's low bits differ little between similar texts; the generator mixes them.
	return rand.New(rand.NewPCG(h.Sum64(), 0)).IntN(1000) < perMille
}
