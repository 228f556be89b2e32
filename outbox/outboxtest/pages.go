package outboxtest

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/outbox"
)

// testPageBytes: large payloads do not pile up in the relay's memory, however they are read.
func testPageBytes(t *testing.T, d Database) {
	ctx := testContext(t)
	const size, rows = 900_000, 12
	large := bytes.Repeat([]byte("x"), size)
	ms := make([]*broker.Message, rows)
	for i := range ms {
		ms[i] = message("bank.test")
		ms[i].Payload = large
	}
	publish(t, d, ms...)
	known, err := d.Relay.Scan(ctx, 0, 100, false)
	must(t, err)
	if len(known.Rows) != rows || known.Cut {
		t.Fatalf("%d rows without payload, cut %v; want all %d", len(known.Rows), known.Cut, rows)
	}
	seqs := make([]int64, rows)
	for i := range known.Rows {
		seqs[i] = known.Rows[i].Seq
	}
	inFull := (outbox.PageBytes + size - 1) / size // the row that reaches the bound is in
	check := func(what string, p outbox.Page, want []int64) {
		t.Helper()
		var got []int64
		for i := range p.Rows {
			if len(p.Rows[i].Payload) != size {
				t.Fatalf("%s: row %d has %d bytes", what, p.Rows[i].Seq, len(p.Rows[i].Payload))
			}
			got = append(got, p.Rows[i].Seq)
		}
		if !slices.Equal(got, want) || p.Cut != (len(want) == inFull) {
			t.Fatalf("%s: rows %v, cut %v; want %v", what, got, p.Cut, want)
		}
	}

	p, err := d.Relay.Scan(ctx, 0, 100, true)
	must(t, err)
	check("scan", p, seqs[:inFull])
	p, err = d.Relay.Scan(ctx, seqs[inFull-1], 100, true)
	must(t, err)
	check("scan on", p, seqs[inFull:])
	p, err = d.Relay.Read(ctx, seqs)
	must(t, err)
	check("read", p, seqs[:inFull])
	p, closed, err := d.Relay.Probe(ctx, []outbox.Gap{{From: seqs[0], To: seqs[rows-1] + 5, Age: time.Hour, Mark: known.Mark}}, 100)
	must(t, err)
	check("probe", p, seqs[:inFull])
	for _, g := range closed {
		if g.To >= seqs[inFull-1] {
			t.Fatalf("the gap %d to %d closed where the read was cut off at %d", g.From, g.To, seqs[inFull-1])
		}
	}
}
