package outbox

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/twostep-mq/twostep/orchestrator/txn"
)

// ReceiptType is the content type of a receipt.
const ReceiptType = "application/vnd.twostep.receipt"

// Inbox is the name of the inbox (and of the doorbell and of the requests) of the outbox with this UUID.
func Inbox(outboxUUID string) string { return "outbox." + outboxUUID }

// SubscriptionInbox is the name of the inbox (and of the requests) of the subscription with this uid.
func SubscriptionInbox(uid string) string { return "sub." + uid }

// ReceiptEntry is a subscription's word on one message: row and id, since row numbers come back.
type ReceiptEntry struct {
	Seq     int64
	ID      string
	Outcome txn.Outcome
}

// Receipt is one batch's worth of entries. A receipt never says "up to": each entry stands for a message literally executed or parked.
type Receipt struct {
	Subscription string
	Entries      []ReceiptEntry
}

const (
	receiptMagic   = "TSR1"
	maxReceiptSize = 900_000
)

var errBadReceipt = errors.New("outbox: malformed receipt")

// wire is the byte that stands for an outcome in a receipt; 0: it has none.
func wire(o txn.Outcome) byte {
	switch o {
	case txn.Success:
		return 1
	case txn.Parked:
		return 2
	case txn.Failure:
		return 3
	case txn.Ongoing:
		return 4
	}
	return 0
}

// unwire is the outcome that a receipt's byte stands for; empty: none.
func unwire(b byte) txn.Outcome {
	for _, o := range []txn.Outcome{txn.Success, txn.Parked, txn.Failure, txn.Ongoing} {
		if wire(o) == b {
			return o
		}
	}
	return ""
}

// EncodeReceipt writes a receipt in the format of docs/reference.md, "Receipts".
func EncodeReceipt(subscription string, entries []ReceiptEntry) ([]byte, error) {
	sub, err := uuid.Parse(subscription)
	if err != nil {
		return nil, fmt.Errorf("outbox: receipt of subscription %q: %w", clip(subscription), err)
	}
	b := make([]byte, 0, len(receiptMagic)+16+len(entries)*22)
	b = append(b, receiptMagic...)
	b = append(b, sub[:]...)
	for _, e := range entries {
		id, err := uuid.Parse(e.ID)
		if err != nil {
			return nil, fmt.Errorf("outbox: receipt for message %q: %w", clip(e.ID), err)
		}
		o := wire(e.Outcome)
		if o == 0 || e.Seq <= 0 {
			return nil, fmt.Errorf("outbox: receipt for row %d with outcome %q: not a receipt's word", e.Seq, e.Outcome)
		}
		b = binary.AppendUvarint(b, uint64(e.Seq))
		b = append(b, id[:]...)
		b = append(b, o)
	}
	if len(b) > maxReceiptSize {
		return nil, fmt.Errorf("outbox: receipt of %d bytes: split the batch", len(b))
	}
	return b, nil
}

// DecodeReceipt reads what EncodeReceipt wrote; everything else is an error, never a guess.
func DecodeReceipt(b []byte) (Receipt, error) {
	var r Receipt
	if len(b) < len(receiptMagic)+16 || string(b[:4]) != receiptMagic {
		return r, errBadReceipt
	}
	r.Subscription = uuid.UUID(b[4:20]).String()
	b = b[20:]
	r.Entries = make([]ReceiptEntry, 0, len(b)/18)
	for len(b) > 0 {
		seq, n := binary.Uvarint(b)
		if n <= 0 || seq == 0 || seq > 1<<63-1 || len(b) < n+17 {
			return Receipt{}, errBadReceipt
		}
		o := unwire(b[n+16])
		if o == "" {
			return Receipt{}, errBadReceipt
		}
		r.Entries = append(r.Entries, ReceiptEntry{Seq: int64(seq), ID: uuid.UUID(b[n : n+16]).String(), Outcome: o})
		b = b[n+17:]
	}
	return r, nil
}
