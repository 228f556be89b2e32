package topics

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/outbox"
)

const (
	// maxReceiptEntries keeps a receipt below a message's limit.
	maxReceiptEntries = 10_000
	// receiptTimeout bounds the wait for the broker; a receipt that is lost is asked for again.
	receiptTimeout = 5 * time.Second
)

// sendReceipts tells the outboxes what was committed: one message for each outbox. A receipt that cannot be sent is dropped: the
// relay sends the message again, and the barrier answers.
func (d *dispatcher) sendReceipts(ctx context.Context, items []*item) {
	if ctx.Err() != nil {
		return
	}
	var order []string
	entries := map[string][]outbox.ReceiptEntry{}
	for _, it := range items {
		if !it.settled || it.outcome == "" || it.told || it.Foreign() {
			continue
		}
		it.told = true
		if _, err := uuid.Parse(it.ID); err != nil || it.Seq <= 0 {
			d.log.Error("no receipt: the message's id or row is malformed", "id", it.ID, "outbox", it.Outbox, "seq", it.Seq)
			continue
		}
		if entries[it.Outbox] == nil {
			order = append(order, it.Outbox)
		}
		entries[it.Outbox] = append(entries[it.Outbox], outbox.ReceiptEntry{Seq: it.Seq, ID: it.ID, Outcome: it.outcome})
	}
	if len(order) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, receiptTimeout)
	defer cancel()
	for _, box := range order {
		for es := entries[box]; len(es) > 0; {
			n := min(len(es), maxReceiptEntries)
			d.sendReceipt(ctx, box, es[:n])
			es = es[n:]
		}
	}
}

func (d *dispatcher) sendReceipt(ctx context.Context, box string, entries []outbox.ReceiptEntry) {
	payload, err := outbox.EncodeReceipt(d.uid, entries)
	if err == nil {
		m := &broker.Message{ID: uuid.NewString(), ContentType: outbox.ReceiptType, Payload: payload, Time: d.cfg.Now()}
		_, err = d.cfg.Send(ctx, outbox.Inbox(box), []*broker.Message{m})
	}
	if err != nil {
		d.log.Warn("receipt not sent; the relay will ask again", "outbox", box, "messages", len(entries), "error", err)
	}
}
