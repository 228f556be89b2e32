package kafka

import (
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

	"github.com/segmentio/kafka-go/protocol"

	"github.com/twostep-mq/twostep/broker"
)

const (
	someID     = "0198cccc-0000-7000-8000-000000000001"
	someOutbox = "0198aaaa-0000-7000-8000-00000000000a"
)

func fullMessage() *broker.Message {
	return &broker.Message{
		ID: someID, Topic: "bank.trans-in", Key: "Konto Zürich % \"7\"", ContentType: "application/json; charset=\"utf-8\"", Payload: []byte(`{"a":1}`),
		Headers: map[string]string{"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "note": "grüezi, 100 %"},
		Time:    time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC), GID: "order-17:A.b", BranchID: "01", Op: "action",
		Outbox: someOutbox, Seq: 42, Prev: "0198cccc-0000-7000-8000-000000000099", Attempt: 3,
	}
}

// The wire format is what other programs read: a change of these files is a change of the product.
func TestEnvelopeGolden(t *testing.T) {
	t.Parallel()
	plain := &broker.Message{ID: someID, GID: someID, Topic: "t", Payload: []byte("x"), Outbox: someOutbox, Seq: 1, Attempt: 1}
	receipt := &broker.Message{ContentType: "application/vnd.twostep.receipt", Payload: []byte("TSR1")}
	for name, m := range map[string]*broker.Message{"full": fullMessage(), "plain": plain, "receipt": receipt} {
		r, err := encode(m)
		if err != nil {
			t.Fatal(err)
		}
		lines := []string{fmt.Sprintf("key %q", r.key), fmt.Sprintf("value %q", r.value)}
		var headers []string
		for _, h := range r.headers {
			headers = append(headers, fmt.Sprintf("%s: %s", h.Key, h.Value))
		}
		slices.Sort(headers)
		got := strings.Join(append(lines, headers...), "\n") + "\n"
		file := filepath.Join("testdata", "envelope-"+name+".golden")
		if os.Getenv("TWOSTEP_UPDATE_GOLDEN") != "" {
			if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, want)
		}
	}
}

func TestEnvelopeRoundTrip(t *testing.T) {
	t.Parallel()
	m := fullMessage()
	r, err := encode(m)
	if err != nil {
		t.Fatal(err)
	}
	if got := decode(&r, m.Topic, broker.Position{}); !reflect.DeepEqual(got, m) {
		t.Errorf("got %+v\nwant %+v", got, m)
	}
	if got := decode(&r, "", broker.Position{}); got.Topic != m.Topic {
		t.Errorf("topic of a message from an inbox: %q", got.Topic)
	}
}

func TestHeaderNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "Note", "a b", "ce_x", "ce-x", "twostep-x", "nats-x", "content-type", "ü"} {
		m := fullMessage()
		m.Headers = map[string]string{name: "v"}
		if _, err := encode(m); err == nil {
			t.Errorf("header %q was taken", name)
		}
	}
}

// Whatever others write can be read, and does not pass for ours.
func TestForeign(t *testing.T) {
	t.Parallel()
	at := broker.Position{Stream: "s", Partition: 3, Offset: 8}
	stored := time.UnixMilli(1_700_000_000_000)
	for name, headers := range map[string][]protocol.Header{
		"none":      nil,
		"no outbox": {{Key: "ce_id", Value: []byte(someID)}, {Key: "twostep-seq", Value: []byte("1")}},
		"no row":    {{Key: "ce_id", Value: []byte(someID)}, {Key: "twostep-outbox", Value: []byte(someOutbox)}},
		"no id":     {{Key: "twostep-outbox", Value: []byte(someOutbox)}, {Key: "twostep-seq", Value: []byte("1")}},
	} {
		m := decode(&record{key: []byte("k"), value: []byte("v"), headers: headers, time: stored}, "t", at)
		if m.ID != broker.ForeignID("t", at, stored) || m.Outbox != "" || m.GID != m.ID || m.Key != "k" {
			t.Errorf("%s: %+v", name, m)
		}
	}
	m := decode(&record{key: []byte{0xff}, headers: []protocol.Header{{Key: "X-Note", Value: []byte("a")}, {Key: "x-note", Value: []byte("b")}}}, "t", at)
	if m.Key != "" || m.Payload == nil || !maps.Equal(m.Headers, map[string]string{"x-note": "b"}) {
		t.Errorf("%+v", m)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("ce_id", someID, "twostep-outbox", someOutbox, "twostep-seq", "7", []byte("k"))
	f.Add("CE_ID", "", "note", "x", "twostep-attempt", "-1", []byte(nil))
	f.Fuzz(func(t *testing.T, n1, v1, n2, v2, n3, v3 string, key []byte) {
		r := record{key: key, headers: []protocol.Header{{Key: n1, Value: []byte(v1)}, {Key: n2, Value: []byte(v2)}, {Key: n3, Value: []byte(v3)}}}
		m := decode(&r, "t", broker.Position{Stream: "s", Offset: 1})
		if m.ID == "" || m.Topic != "t" || m.Attempt < 1 || m.Outbox == "" && m.Prev != "" {
			t.Errorf("%+v", m)
		}
		if m.Outbox != "" && (!isUUID(m.ID) || !isUUID(m.Outbox) || m.Seq < 1) {
			t.Errorf("passes for ours: %+v", m)
		}
		if m.Outbox == "" && m.Key != "" && !utf8.ValidString(m.Key) && m.Key == string(key) {
			t.Errorf("key %q", m.Key)
		}
	})
}
