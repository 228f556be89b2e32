package brokertest

import (
	"errors"
	"fmt"
	"testing"

	"github.com/twostep-mq/twostep/broker"
)

func testInboxOrder(t *testing.T, h Harness) {
	b, ctx := h.Connect(t), background(t)
	one, two := "sub."+uid(1), "sub."+uid(2)
	for _, inbox := range []string{one, two, one} {
		if err := b.EnsureInbox(ctx, inbox); err != nil {
			t.Fatal(err)
		}
	}
	r := read(t, h.Connect(t), broker.Source{Inbox: one}, nil)
	for from := 1; from <= 200; from += 20 {
		if n, err := b.Send(ctx, one, messages("resent", from, from+19)); n != 20 || err != nil {
			t.Fatalf("Send: %d, %v", n, err)
		}
		if n, err := b.Send(ctx, two, messages("other", from, from)); n != 1 || err != nil {
			t.Fatalf("Send: %d, %v", n, err)
		}
		r.atLeast(from + 19) // the inbox is small
	}
	ds := r.atLeast(200)
	wantSeqs(t, ds, 1, 200)
	if ds[0].Topic != "resent" || ds[0].Foreign() || ds[0].Redelivered {
		t.Errorf("topic %q, foreign %v, redelivered %v", ds[0].Topic, ds[0].Foreign(), ds[0].Redelivered)
	}
	r2 := read(t, b, broker.Source{Inbox: two}, nil)
	if ds := r2.atLeast(10); len(ds) != 10 || ds[0].Topic != "other" {
		t.Errorf("the other inbox delivered %v", brief(ds))
	}
}

func testInboxFull(t *testing.T, h Harness) {
	b, ctx := h.Connect(t), background(t)
	one, two := "sub."+uid(1), "sub."+uid(2)
	for _, inbox := range []string{one, two} {
		if err := b.EnsureInbox(ctx, inbox); err != nil {
			t.Fatal(err)
		}
	}
	limit := h.InboxMessages
	n, err := b.Send(ctx, one, messages("t", 1, limit+10))
	if n != limit || !errors.Is(err, broker.ErrFull) {
		t.Fatalf("Send of %d messages: %d, %v, want %d and ErrFull", limit+10, n, err, limit)
	}
	if n, err := b.Send(ctx, two, messages("t", 1, 1)); n != 1 || err != nil {
		t.Errorf("the other inbox: %d, %v", n, err)
	}
	r := read(t, b, broker.Source{Inbox: one}, nil)
	wantSeqs(t, r.atLeast(limit), 1, limit)
	eventually(t, func() error {
		n, err := b.Send(ctx, one, messages("t", limit+1, limit+1))
		if err == nil && n != 1 {
			err = fmt.Errorf("%d messages sent", n)
		}
		return err
	})
	wantSeqs(t, r.atLeast(limit+1), 1, limit+1)
}

// Receipts come in numbers: the inbox of an outbox holds far more, and its messages belong to no topic.
func testReceipts(t *testing.T, h Harness) {
	b, ctx := h.Connect(t), background(t)
	inbox := "outbox." + outbox
	if err := b.EnsureInbox(ctx, inbox); err != nil {
		t.Fatal(err)
	}
	receipt := &broker.Message{ContentType: "application/vnd.twostep.receipt", Payload: []byte("TSR1\x00\xff")}
	var ms []*broker.Message
	for range 2 * h.InboxMessages {
		ms = append(ms, receipt)
	}
	if n, err := b.Send(ctx, inbox, ms); n != len(ms) || err != nil {
		t.Fatalf("Send: %d, %v", n, err)
	}
	ds := read(t, b, broker.Source{Inbox: inbox}, nil).atLeast(len(ms))
	for _, d := range ds {
		if d.ContentType != receipt.ContentType || string(d.Payload) != string(receipt.Payload) || d.Topic != "" {
			t.Fatalf("got %+v", *d.Message)
		}
	}
}

func testInboxDelete(t *testing.T, h Harness) {
	b, ctx := h.Connect(t), background(t)
	inbox := "sub." + uid(1)
	if err := b.DeleteInbox(ctx, inbox); err != nil {
		t.Fatalf("DeleteInbox of an absent one: %v", err)
	}
	if err := b.EnsureInbox(ctx, inbox); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Send(ctx, inbox, messages("t", 1, 5)); err != nil {
		t.Fatal(err)
	}
	if err := b.DeleteInbox(ctx, inbox); err != nil {
		t.Fatal(err)
	}
	if err := b.EnsureInbox(ctx, inbox); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Send(ctx, inbox, messages("t", 6, 6)); err != nil {
		t.Fatal(err)
	}
	wantSeqs(t, read(t, b, broker.Source{Inbox: inbox}, nil).atLeast(1), 6, 6)
}

// A message to an inbox that was never made is refused, or kept until it is read.
func testInboxNeverMade(t *testing.T, h Harness) {
	b, ctx := h.Connect(t), background(t)
	for _, inbox := range []string{"sub." + uid(1), "outbox." + outbox} {
		n, err := b.Send(ctx, inbox, messages("t", 1, 3))
		if errors.Is(err, broker.ErrNoInbox) {
			if n != 0 {
				t.Errorf("%d messages sent to an inbox that is not there", n)
			}
			if err := b.EnsureInbox(ctx, inbox); err != nil {
				t.Fatal(err)
			}
			n, err = b.Send(ctx, inbox, messages("t", 1, 3))
		}
		if n != 3 || err != nil {
			t.Fatalf("Send: %d, %v", n, err)
		}
		wantSeqs(t, read(t, b, broker.Source{Inbox: inbox}, nil).atLeast(3), 1, 3)
	}
}
