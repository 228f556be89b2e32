package brokertest

import (
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/broker"
)

func testPublishOrder(t *testing.T, h Harness) {
	b := h.Connect(t)
	src := topicWith(t, b, "order", false)
	at := mustPublish(t, b, messages("order", 1, 1000))
	last := map[int]uint64{}
	for i, p := range at {
		if p.Stream == "" || p.Stream != at[0].Stream {
			t.Fatalf("message %d: incarnation %q, the first has %q", i, p.Stream, at[0].Stream)
		}
		if p.Offset <= last[p.Partition] {
			t.Fatalf("message %d has offset %d after %d", i, p.Offset, last[p.Partition])
		}
		last[p.Partition] = p.Offset
	}
	ds := read(t, b, src, nil).atLeast(1000)
	wantSeqs(t, ds, 1, 1000)
	for i, d := range ds {
		if d.Position != at[i] {
			t.Fatalf("message %d was stored at %+v and delivered from %+v", i, at[i], d.Position)
		}
	}
}

func testPublishConcurrent(t *testing.T, h Harness) {
	b := h.Connect(t)
	src := topicWith(t, b, "many", false)
	done := make(chan struct{})
	for g := range 4 {
		go func() {
			defer func() { done <- struct{}{} }()
			for n := range 10 {
				from := g*1000 + n*50 + 1
				mustPublishAsync(t, b, messages("many", from, from+49))
			}
		}()
	}
	for range 4 {
		<-done
	}
	ds := read(t, b, src, nil).atLeast(2000)
	last := map[int64]int64{} // by publisher
	for _, d := range ds {
		g := (d.Seq - 1) / 1000
		if d.Seq <= last[g] {
			t.Fatalf("publisher %d: message %d after %d", g, d.Seq, last[g])
		}
		last[g] = d.Seq
	}
}

// mustPublishAsync is mustPublish for goroutines that are not the test's own.
func mustPublishAsync(t *testing.T, b broker.Broker, ms []*broker.Message) {
	errs := make(chan error, len(ms))
	b.Publish(t.Context(), ms, func(_ int, _ broker.Position, err error) { errs <- err })
	for range ms {
		if err := <-errs; err != nil {
			t.Errorf("publish: %v", err)
		}
	}
}

func testTooLarge(t *testing.T, h Harness) {
	b := h.Connect(t)
	src := topicWith(t, b, "large", false)
	ms := messages("large", 1, 3)
	ms[1].Payload = make([]byte, h.TooLarge)
	out := publish(t, b, ms)
	if out.errs[0] != nil || out.errs[2] != nil || !errors.Is(out.errs[1], broker.ErrTooLarge) {
		t.Fatalf("publish: %v, want the second ErrTooLarge", out.errs)
	}
	ds := read(t, b, src, nil).atLeast(2)
	if ds[0].Seq != 1 || ds[1].Seq != 3 {
		t.Errorf("delivered %v", brief(ds))
	}
	if err := b.EnsureInbox(background(t), "sub."+uid(1)); err != nil {
		t.Fatal(err)
	}
	if n, err := b.Send(background(t), "sub."+uid(1), ms); n != 1 || !errors.Is(err, broker.ErrTooLarge) {
		t.Errorf("Send: %d, %v, want 1 and ErrTooLarge", n, err)
	}
}

func testContent(t *testing.T, h Harness) {
	b := h.Connect(t)
	src := topicWith(t, b, "content", false)
	full := message("content", 1)
	full.Key, full.GID, full.Prev = "Konto Zürich % \"7\"\n", "order-17:A.b", messageID(99)
	full.BranchID, full.Op, full.Attempt = "01", "action", 3
	full.ContentType = "application/json; charset=\"utf-8\""
	full.Headers = map[string]string{
		"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "note": " grüezi, 100 % ", "empty": "",
	}
	full.Payload = []byte{0, 1, 2, 255, '\r', '\n'}
	empty := message("content", 2)
	empty.Payload, empty.ContentType = []byte{}, ""
	before := time.Now()
	mustPublish(t, b, []*broker.Message{full, empty})
	ds := read(t, b, src, nil).atLeast(2)
	for i, want := range []*broker.Message{full, empty} {
		got := ds[i]
		same := got.ID == want.ID && got.Topic == want.Topic && got.Key == want.Key && got.ContentType == want.ContentType &&
			string(got.Payload) == string(want.Payload) && maps.Equal(got.Headers, want.Headers) && got.Time.Equal(want.Time) &&
			got.GID == want.GID && got.BranchID == want.BranchID && got.Op == want.Op && got.Outbox == want.Outbox &&
			got.Seq == want.Seq && got.Prev == want.Prev && got.Attempt == want.Attempt
		if !same {
			t.Errorf("message %d\n got %+v\nwant %+v", i, *got.Message, *want)
		}
		if got.Foreign() {
			t.Errorf("message %d counts as foreign", i)
		}
		if got.Stored.Before(before.Add(-time.Minute)) || got.Stored.After(time.Now().Add(time.Minute)) {
			t.Errorf("message %d was stored at %v", i, got.Stored)
		}
	}
}

func testLargestContent(t *testing.T, h Harness) {
	b := h.Connect(t)
	src := topicWith(t, b, "largest", false)
	m := message("largest", 1)
	m.Payload = make([]byte, broker.MaxPayload)
	m.Key = strings.Repeat("ü", 256)
	m.GID = strings.Repeat("g", 128)
	m.Headers = map[string]string{"note": strings.Repeat("ä", 4000)}
	mustPublish(t, b, []*broker.Message{m})
	ds := read(t, b, src, nil).atLeast(1)
	if len(ds[0].Payload) != broker.MaxPayload || ds[0].Key != m.Key || ds[0].Headers["note"] != m.Headers["note"] {
		t.Errorf("payload of %d bytes, key of %d, header of %d", len(ds[0].Payload), len(ds[0].Key), len(ds[0].Headers["note"]))
	}
}

func testTenThousand(t *testing.T, h Harness) {
	b := h.Connect(t)
	src := topicWith(t, b, "fast", false)
	r := read(t, h.Connect(t), src, nil)
	began := time.Now()
	mustPublish(t, b, messages("fast", 1, 10_000))
	wantSeqs(t, r.atLeast(10_000), 1, 10_000)
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("10,000 messages took %v", took)
	}
}
