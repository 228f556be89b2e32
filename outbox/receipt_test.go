package outbox

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/twostep-mq/twostep/orchestrator/txn"
)

const (
	goldenSub     = "01890a5d-ac96-774b-bcce-b302099a8057"
	goldenReceipt = "54535231" + // TSR1
		"01890a5dac96774bbcceb302099a8057" + // subscription
		"01" + "0189f7e0c3a17d53a1f2000000000001" + "01" + // row 1, success
		"ac02" + "0189f7e0c3a17d53a1f2000000000002" + "02" + // row 300, parked
		"ffffffffffffffff7f" + "0189f7e0c3a17d53a1f2000000000003" + "03" + // row 2^63-1, failure
		"02" + "0189f7e0c3a17d53a1f2000000000004" + "04" // row 2, ongoing
)

func goldenEntries() []ReceiptEntry {
	return []ReceiptEntry{
		{Seq: 1, ID: "0189f7e0-c3a1-7d53-a1f2-000000000001", Outcome: txn.Success},
		{Seq: 300, ID: "0189f7e0-c3a1-7d53-a1f2-000000000002", Outcome: txn.Parked},
		{Seq: 1<<63 - 1, ID: "0189f7e0-c3a1-7d53-a1f2-000000000003", Outcome: txn.Failure},
		{Seq: 2, ID: "0189f7e0-c3a1-7d53-a1f2-000000000004", Outcome: txn.Ongoing},
	}
}

// TestReceiptGolden: what stands on the wire never changes; relays of the next version read it.
func TestReceiptGolden(t *testing.T) {
	t.Parallel()
	got, err := EncodeReceipt(goldenSub, goldenEntries())
	if err != nil {
		t.Fatal(err)
	}
	if h := hex.EncodeToString(got); h != goldenReceipt {
		t.Errorf("encoded\n%s, want\n%s", h, goldenReceipt)
	}
	r, err := DecodeReceipt(got)
	if err != nil {
		t.Fatal(err)
	}
	if r.Subscription != goldenSub || len(r.Entries) != 4 {
		t.Fatalf("decoded %+v", r)
	}
	for i, e := range goldenEntries() {
		if r.Entries[i] != e {
			t.Errorf("entry %d: %+v, want %+v", i, r.Entries[i], e)
		}
	}
}

func TestReceiptRefusesWhatIsNoWord(t *testing.T) {
	t.Parallel()
	id := goldenEntries()[0].ID
	for name, e := range map[string]ReceiptEntry{
		"row 0": {Seq: 0, ID: id, Outcome: txn.Success}, "row -1": {Seq: -1, ID: id, Outcome: txn.Success},
		"no id": {Seq: 1, ID: "x", Outcome: txn.Success}, "no outcome": {Seq: 1, ID: id}, "dropped": {Seq: 1, ID: id, Outcome: txn.Dropped},
	} {
		if _, err := EncodeReceipt(goldenSub, []ReceiptEntry{e}); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
	if _, err := EncodeReceipt("nobody", nil); err == nil {
		t.Error("a receipt of nobody was encoded")
	}
	many := make([]ReceiptEntry, 60_000)
	for i := range many {
		many[i] = ReceiptEntry{Seq: 1, ID: id, Outcome: txn.Success}
	}
	if _, err := EncodeReceipt(goldenSub, many); err == nil {
		t.Error("a receipt above a message's limit was encoded")
	}
}

func TestReceiptMalformed(t *testing.T) {
	t.Parallel()
	good, err := hex.DecodeString(goldenReceipt)
	if err != nil {
		t.Fatal(err)
	}
	head := good[:20]
	id := bytes.Repeat([]byte{7}, 16)
	for name, b := range map[string][]byte{
		"empty": nil, "magic": []byte(strings.Repeat("x", 40)), "short": good[:19],
		"next version": append([]byte("TSR2"), good[4:]...),
		"cut":          good[:len(good)-1],
		"row 0":        bytes.Join([][]byte{head, {0}, id, {1}}, nil),
		"outcome 0":    bytes.Join([][]byte{head, {1}, id, {0}}, nil),
		"outcome 5":    bytes.Join([][]byte{head, {1}, id, {5}}, nil),
		"row 2^63":     bytes.Join([][]byte{head, {0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1}, id, {1}}, nil),
		"row too long": bytes.Join([][]byte{head, bytes.Repeat([]byte{0xff}, 11), id, {1}}, nil),
	} {
		if _, err := DecodeReceipt(b); !errors.Is(err, errBadReceipt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if r, err := DecodeReceipt(head); err != nil || len(r.Entries) != 0 {
		t.Errorf("an empty receipt: %+v, %v", r, err)
	}
}

// FuzzDecodeReceipt: nothing panics, and what is accepted means the same when it is written again.
func FuzzDecodeReceipt(f *testing.F) {
	good, err := hex.DecodeString(goldenReceipt)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:20])
	f.Add([]byte("TSR1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeReceipt(b)
		if err != nil {
			return
		}
		again, err := EncodeReceipt(r.Subscription, r.Entries)
		if err != nil {
			if len(b) > maxReceiptSize {
				return
			}
			t.Fatalf("accepted and cannot be written: %v", err)
		}
		back, err := DecodeReceipt(again)
		if err != nil || back.Subscription != r.Subscription || len(back.Entries) != len(r.Entries) {
			t.Fatalf("came back as %+v, %v", back, err)
		}
		for i := range back.Entries {
			if back.Entries[i] != r.Entries[i] {
				t.Fatalf("entry %d came back as %+v", i, back.Entries[i])
			}
		}
	})
}
