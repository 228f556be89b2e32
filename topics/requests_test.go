package topics_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/topics"
)

func TestParkedRequests(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	big := bytes.Repeat([]byte{7}, 900_000)
	b.process(
		msg("m1", 11, key("k"), redelivered, func(d *broker.Delivery) { d.Payload, d.GID = big, "trip-1" }),
		msg("m2", 12, key("k")), msg("m3", 13, redelivered))

	list := b.ask(topics.ParkedRequest{Op: topics.ParkedList})
	if len(list.Parked) != 3 || list.More {
		t.Fatalf("list: %+v", list)
	}
	p := list.Parked[0]
	if p.Payload != nil || p.Size != len(big) || p.GID != "trip-1" || p.State != topics.ParkedWaiting || p.UID != b.sub.UID || p.OutboxSeq != 11 || p.Subscription != "accounts" {
		t.Errorf("listed: %+v", p)
	}
	if got := list.Parked[1]; got.State != topics.ParkedHeld || got.GID != got.ID {
		t.Errorf("listed: %+v", got)
	}
	if r := b.ask(topics.ParkedRequest{Op: topics.ParkedList, State: topics.ParkedHeld}); len(r.Parked) != 1 || nameOf(r.Parked[0].ID) != "m2" {
		t.Errorf("held: %+v", r)
	}
	page := b.ask(topics.ParkedRequest{Op: topics.ParkedList, Limit: 2})
	if len(page.Parked) != 2 || !page.More {
		t.Errorf("page: %+v", page)
	}
	if r := b.ask(topics.ParkedRequest{Op: topics.ParkedList, Limit: 2, After: page.Parked[1].Seq}); len(r.Parked) != 1 || r.More {
		t.Errorf("last page: %+v", r)
	}

	var payload []byte
	for len(payload) < len(big) {
		r := b.ask(topics.ParkedRequest{Op: topics.ParkedShow, ID: idOf("m1"), Offset: len(payload)})
		if r.Error != "" || len(r.Parked[0].Payload) == 0 || len(r.Parked[0].Payload) > topics.MaxParkedPayload {
			t.Fatalf("show at %d: %s, %d bytes", len(payload), r.Error, len(r.Parked[0].Payload))
		}
		payload = append(payload, r.Parked[0].Payload...)
	}
	if !bytes.Equal(payload, big) {
		t.Error("the payload shown is not the message's")
	}
}

func TestParkedRequestErrors(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	for _, c := range []struct{ body, code string }{
		{`{`, topics.ParkedCodeInvalid},
		{`{"op":"explode"}`, topics.ParkedCodeInvalid},
		{`{"op":"explode","id":"x"}`, topics.ParkedCodeInvalid},
		{`{"op":"drop"}`, topics.ParkedCodeInvalid},
		{`{"op":"show","id":"nobody"}`, topics.ParkedCodeNotFound},
		{`{"op":"replay","id":"nobody"}`, topics.ParkedCodeNotFound},
		{`{"op":"drop","id":"nobody"}`, topics.ParkedCodeNotFound},
	} {
		var r topics.ParkedReply
		if err := json.Unmarshal(b.d.Answer(t.Context(), []byte(c.body)), &r); err != nil {
			t.Fatal(err)
		}
		if r.Code != c.code || r.Error == "" || r.Parked == nil {
			t.Errorf("%s: %+v, want code %s", c.body, r, c.code)
		}
	}
}

// An answer stays below what a broker's request can carry, however long the reasons are.
func TestParkedListFitsIntoOneAnswer(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	var batch []broker.Delivery
	for i := range 800 {
		k := fmt.Sprintf("%0500d", i)
		batch = append(batch, msg(fmt.Sprintf("m%03d", i), int64(i+1), key(k), redelivered, func(d *broker.Delivery) { d.GID = k[:128] }))
	}
	b.process(batch...)
	got, after := 0, int64(0)
	for {
		body, err := json.Marshal(topics.ParkedRequest{Op: topics.ParkedList, After: after, Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		answer := b.d.Answer(t.Context(), body)
		if len(answer) > 1_000_000 {
			t.Fatalf("answer of %d bytes", len(answer))
		}
		var r topics.ParkedReply
		if err := json.Unmarshal(answer, &r); err != nil {
			t.Fatal(err)
		}
		got += len(r.Parked)
		if !r.More {
			break
		}
		after = r.Parked[len(r.Parked)-1].Seq
	}
	if got != 800 {
		t.Errorf("listed %d, want 800", got)
	}
}

func FuzzParkedRequest(f *testing.F) {
	f.Add([]byte(`{"op":"list","limit":-1,"after":9}`))
	f.Add([]byte(`{"op":"show","id":"x","offset":-5}`))
	f.Add([]byte(`{`))
	b := &bench{t: nil}
	f.Fuzz(func(t *testing.T, body []byte) {
		if b.t == nil {
			*b = *newBench(t, nil)
		}
		var r topics.ParkedReply
		if err := json.Unmarshal(b.d.Answer(t.Context(), body), &r); err != nil {
			t.Errorf("answer to %q: %v", body, err)
		}
	})
}
