package storage_test

import (
	"database/sql"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/outbox/storage"
)

func TestHeadersComeBack(t *testing.T) {
	t.Parallel()
	for _, headers := range []map[string]string{nil, {"a": "b"}, {"traceparent": "00-x", "ä": "日本 \"quoted\" \\ \u0000"}} {
		text, err := storage.EncodeHeaders(headers)
		if err != nil {
			t.Fatal(err)
		}
		if text.Valid != (len(headers) > 0) {
			t.Errorf("%v: NULL is %v", headers, !text.Valid)
		}
		got, err := storage.DecodeHeaders(text)
		if err != nil || !maps.Equal(got, headers) {
			t.Errorf("%v came back as %v, %v", headers, got, err)
		}
	}
}

func TestHeadersOfOthers(t *testing.T) {
	t.Parallel()
	got, err := storage.DecodeHeaders(sql.NullString{String: `{"n": 7, "yes": true, "s": "text", "o": {"a": 1}}`, Valid: true})
	want := map[string]string{"n": "7", "yes": "true", "s": "text", "o": `{"a": 1}`}
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	if _, err := storage.DecodeHeaders(sql.NullString{String: `[1]`, Valid: true}); err == nil {
		t.Error("a list was taken for headers")
	}
}

func FuzzDecodeHeaders(f *testing.F) {
	f.Add(`{"a":"b"}`)
	f.Add(`{"a":1,"b":null}`)
	f.Add(`[`)
	f.Fuzz(func(t *testing.T, text string) {
		headers, err := storage.DecodeHeaders(sql.NullString{String: text, Valid: true})
		if err != nil {
			return
		}
		again, err := storage.EncodeHeaders(headers)
		if err != nil {
			t.Fatalf("%q decodes to %v, which does not encode: %v", text, headers, err)
		}
		if got, err := storage.DecodeHeaders(again); err != nil || !maps.Equal(got, headers) && len(headers) > 0 {
			t.Fatalf("%v came back as %v, %v", headers, got, err)
		}
	})
}

func TestEmptyParts(t *testing.T) {
	t.Parallel()
	rows := func(seqs ...int64) (list []outbox.Row) {
		for _, seq := range seqs {
			list = append(list, outbox.Row{Seq: seq})
		}
		return list
	}
	gap := func(from, to int64) outbox.Gap { return outbox.Gap{From: from, To: to, Age: time.Second, Mark: "m"} }
	for name, c := range map[string]struct {
		gap  outbox.Gap
		rows []outbox.Row
		cut  bool
		want []outbox.Gap
	}{
		"no row":           {gap(3, 9), nil, false, []outbox.Gap{gap(3, 9)}},
		"a row within":     {gap(3, 9), rows(5), false, []outbox.Gap{gap(3, 4), gap(6, 9)}},
		"rows at its ends": {gap(3, 9), rows(3, 9), false, []outbox.Gap{gap(4, 8)}},
		"full":             {gap(3, 4), rows(3, 4), false, nil},
		"rows elsewhere":   {gap(3, 4), rows(1, 8), false, []outbox.Gap{gap(3, 4)}},
		"cut within":       {gap(3, 9), rows(5), true, []outbox.Gap{gap(3, 4)}},
		"cut before it":    {gap(3, 9), rows(2), true, nil},
		"cut, nothing":     {gap(3, 9), nil, true, nil},
	} {
		if got := storage.EmptyParts(c.gap, c.rows, c.cut); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
}

func TestTimesComeBack(t *testing.T) {
	t.Parallel()
	for _, at := range []time.Time{{}, time.UnixMilli(1), time.UnixMilli(1_700_000_000_123)} {
		if got := storage.Time(storage.Millis(at)); !got.Equal(at) {
			t.Errorf("%v came back as %v", at, got)
		}
	}
}
