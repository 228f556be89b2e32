package nats

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"

	"github.com/twostep-mq/twostep/broker"
)

var update = flag.Bool("update", false, "write the golden files anew")

func fullMessage() *broker.Message {
	return &broker.Message{
		ID: "0198cccc-0000-7000-8000-000000000001", Topic: "bank.trans-in", Key: "Konto Zürich 7 %",
		ContentType: `application/json; charset="utf-8"`, Payload: []byte(`{"amount":30}`),
		Headers: map[string]string{"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "note": "grüezi \"du\"\r\n"},
		Time:    time.Date(2026, 1, 2, 3, 4, 5, 678_000_000, time.UTC),
		GID:     "order-17:A", BranchID: "01", Op: "action",
		Outbox: "0198aaaa-0000-7000-8000-00000000000a", Seq: 42, Prev: "0198cccc-0000-7000-8000-000000000000", Attempt: 3,
	}
}

// TestEnvelopeGolden holds the headers to what docs/reference.md fixes: other versions and languages read them.
func TestEnvelopeGolden(t *testing.T) {
	t.Parallel()
	plain := fullMessage()
	plain.Key, plain.Headers, plain.BranchID, plain.Op, plain.Prev, plain.Attempt = "", nil, "", "", "", 1
	plain.GID, plain.ContentType = plain.ID, "application/json"
	receipt := &broker.Message{ContentType: "application/vnd.twostep.receipt", Payload: []byte("TSR1")}
	for name, m := range map[string]*broker.Message{"full": fullMessage(), "plain": plain, "receipt": receipt} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, err := newEnvelope().encode(m)
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			for _, key := range slices.Sorted(maps.Keys(h)) {
				fmt.Fprintf(&got, "%s: %s\n", key, strings.Join(h[key], " | "))
			}
			path := filepath.Join("testdata", "envelope-"+name+".golden")
			if *update {
				if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Bytes(), want) {
				t.Errorf("headers\n%swant\n%s", got.Bytes(), want)
			}
		})
	}
}

func TestEncodeRefusesHeaderNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "Upper", "with space", "a:b", "ce-id", "ce-x", "twostep-x", "nats-msg-id", "content-type", "ümlaut", "a\r\nb"} {
		m := fullMessage()
		m.Headers = map[string]string{name: "v"}
		if _, err := newEnvelope().encode(m); err == nil {
			t.Errorf("header name %q was accepted", name)
		}
	}
}

func TestDecodeForeign(t *testing.T) {
	t.Parallel()
	at := broker.Position{Stream: "s", Offset: 7}
	stored := time.Unix(1, 2)
	id := broker.ForeignID("t", at, stored)
	ours, err := newEnvelope().encode(fullMessage())
	if err != nil {
		t.Fatal(err)
	}
	with := func(change func(nats.Header)) nats.Header {
		h := maps.Clone(ours)
		change(h)
		return h
	}
	tests := map[string]nats.Header{
		"no headers":       nil,
		"no outbox":        with(func(h nats.Header) { delete(h, headerOutbox) }),
		"no id":            with(func(h nats.Header) { delete(h, headerID) }),
		"id is no UUID":    with(func(h nats.Header) { h[headerID] = []string{"17"} }),
		"no row":           with(func(h nats.Header) { delete(h, headerSeq) }),
		"row is no number": with(func(h nats.Header) { h[headerSeq] = []string{"9e9"} }),
		"row is 0":         with(func(h nats.Header) { h[headerSeq] = []string{"0"} }),
		"value missing":    with(func(h nats.Header) { h[headerID] = nil }),
	}
	for name, h := range tests {
		m := decode(h, []byte("p"), "t", at, stored)
		if m.ID != id || m.GID != id || m.Outbox != "" || m.Seq != 0 || m.Prev != "" || m.Attempt != 1 || m.Topic != "t" {
			t.Errorf("%s: %+v, want identity %q and no row", name, *m, id)
		}
	}
	m := decode(nats.Header{
		"X-Case": {"upper"}, "x-case": {"lower"}, "Content-Type": {"text/plain"}, "ce-type": {"theirs"}, "Nats-Pin-Id": {"x"},
		"twostep-op": {"action"}, "raw": {"100 %41"}, "many": {"a", "b"},
	}, nil, "t", at, stored)
	want := map[string]string{"x-case": "lower", "ce-type": "theirs", "raw": "100 %41", "many": "a, b"}
	if !maps.Equal(m.Headers, want) || m.ContentType != "text/plain" || m.Op != "" {
		t.Errorf("headers %v, content type %q, op %q; want %v", m.Headers, m.ContentType, m.Op, want)
	}
}

// wire sends headers through the client's own encoding and decoding.
func wire(t *testing.T, h nats.Header) nats.Header {
	t.Helper()
	var b bytes.Buffer
	b.WriteString("NATS/1.0\r\n")
	for name, values := range h {
		for _, v := range values {
			b.WriteString(name + ": " + strings.NewReplacer("\r", " ", "\n", " ").Replace(strings.Trim(v, " \t\r\n")) + "\r\n")
		}
	}
	b.WriteString("\r\n")
	out, err := nats.DecodeHeadersMsg(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func FuzzEnvelopeRoundTrip(f *testing.F) {
	f.Add("topic", "key", "text/plain", "name", "value", "gid", "01", "action", int64(1), 1, int64(0))
	f.Add("a.b", "Zürich % %41\n", " text/plain; a=\"b\" ", "traceparent", " \t%", "", "", "", int64(1)<<62, 7, int64(1767323045678000000))
	f.Add("t", "\x00\xff", "\r\nx", "x-1", "", "g g", "é", "\"", int64(3), 0, int64(-1))
	f.Fuzz(func(t *testing.T, topic, key, contentType, name, value, gid, branch, op string, seq int64, attempt int, nanos int64) {
		m := fullMessage()
		m.Topic, m.Key, m.ContentType, m.GID, m.BranchID, m.Op = topic, key, contentType, gid, branch, op
		m.Headers, m.Seq, m.Attempt = map[string]string{name: value}, max(seq, 1), max(attempt, 1)
		m.Time = time.Unix(0, nanos).UTC()
		if m.GID == "" {
			m.GID = m.ID // an empty one is read back as the id
		}
		if checkHeaderName(name) != nil {
			m.Headers = nil
		}
		h, err := newEnvelope().encode(m)
		if err != nil {
			t.Fatal(err)
		}
		for k, vs := range h {
			for i := range len(vs[0]) {
				if c := vs[0][i]; c < ' ' || c > '~' || !utf8.ValidString(vs[0]) {
					t.Fatalf("header %s has byte %#x", k, c)
				}
			}
		}
		got := decode(wire(t, h), m.Payload, "", broker.Position{}, time.Time{})
		if !reflect.DeepEqual(got, m) {
			t.Fatalf("got  %+v\nwant %+v", *got, *m)
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add("ce-id", "x", "twostep-outbox", "y", "Twostep-Seq", "1", "%", "%4", "%%%41")
	f.Add("ce-time", "9999-99-99", "content-type", "%zz", "nats-x", "", "", "", "Status")
	f.Fuzz(func(t *testing.T, n1, v1, n2, v2, n3, v3, n4, v4, raw string) {
		h := nats.Header{n1: {v1}, n2: {v2, v1}, n3: {v3}, n4: nil}
		m := decode(h, []byte(v4), "t", broker.Position{Offset: 1}, time.Unix(0, 1))
		if m.ID == "" || m.GID == "" || m.Topic != "t" || m.Attempt < 1 {
			t.Fatalf("%+v", *m)
		}
		if m.Outbox == "" && m.Seq != 0 || m.Outbox != "" && m.Seq < 1 {
			t.Fatalf("outbox %q, row %d", m.Outbox, m.Seq)
		}
		if unescape(escape(raw)) != raw || unescape(escapeContentType(raw)) != raw {
			t.Fatalf("%q does not survive", raw)
		}
		unescape(raw)
		parseReply(raw)
		parseReply(ackPrefix + raw)
	})
}

func TestParseReply(t *testing.T) {
	t.Parallel()
	want := delivered{times: 2, offset: 30, sequence: 4, stored: time.Unix(0, 1767323045678000000).UTC(), pending: 5}
	for _, reply := range []string{
		"$JS.ACK.stream.consumer.2.30.4.1767323045678000000.5",
		"$JS.ACK.domain.account.stream.consumer.2.30.4.1767323045678000000.5",
		"$JS.ACK._.account.stream.consumer.2.30.4.1767323045678000000.5.random",
	} {
		if got, ok := parseReply(reply); !ok || got != want {
			t.Errorf("%s: %+v, %v", reply, got, ok)
		}
	}
	for _, reply := range []string{"", "_INBOX.x", "$JS.ACK.", "$JS.ACK.s.c.2.30.4.1", "$JS.ACK.s.c.2.x.4.1767.5", "$JS.ACK.s.c.2.30.4.1767.5.6"} {
		if got, ok := parseReply(reply); ok {
			t.Errorf("%s: %+v", reply, got)
		}
	}
}

func TestParseAck(t *testing.T) {
	t.Parallel()
	for data, want := range map[string]string{
		`{"stream":"s","seq":17}`:                                "17",
		`{"stream":"s", "seq":17, "domain":"d"}`:                 "17",
		`{"domain":"d","stream":"s","seq":18446744073709551615}`: "18446744073709551615",
		`{"stream":"s","seq":18446744073709551615}`:              "18446744073709551615",
		``:                       broker.ErrNoTopic.Error(),
		`{"stream":"s","seq":0}`: "no sequence",
		`nonsense`:               "invalid character",
		`{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"},"stream":"s","seq":0}`:               broker.ErrFull.Error(),
		`{"error":{"code":503,"err_code":10077,"description":"maximum messages per subject exceeded"}}`:                     broker.ErrFull.Error(),
		`{"error":{"code":400,"err_code":10054,"description":"message size exceeds maximum allowed"},"stream":"s","seq":0}`: broker.ErrTooLarge.Error(),
		`{"error":{"code":503,"err_code":10077,"description":"write: no space left on device"},"stream":"s","seq":0}`:       "no space left",
		`{"error":{"code":503,"err_code":10023,"description":"insufficient resources"},"stream":"s","seq":0}`:               broker.ErrFull.Error(),
	} {
		offset, err := parseAck(&nats.Msg{Data: []byte(data)})
		got := fmt.Sprint(offset)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", data, got, want)
		}
	}
}
