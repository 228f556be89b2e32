package outboxtest

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/outbox"
)

func testInsert(t *testing.T, h Harness) {
	t.Run("the outbox has one UUID", func(t *testing.T) {
		d := h.Open(t)
		first, err := d.Store.UUID(testContext(t))
		must(t, err)
		again, err := d.Another(t).Store.UUID(testContext(t))
		must(t, err)
		if len(first) != 36 || first != again || strings.ToLower(first) != first {
			t.Fatalf("UUID is %q and then %q", first, again)
		}
		if other, err := h.Open(t).Store.UUID(testContext(t)); err != nil || other == first {
			t.Fatalf("another database has UUID %q (%v)", other, err)
		}
	})

	t.Run("a committed row is seen as it was written", func(t *testing.T) {
		d := h.Open(t)
		uuid, err := d.Store.UUID(testContext(t))
		must(t, err)
		full := message("bank.trans-in")
		full.Key, full.GID = "köy ' \" \\ 1", "transfer:1"
		full.ContentType = "application/octet-stream"
		full.Payload = []byte{0, 1, 2, 0xff, '\'', 0}
		full.Headers = map[string]string{"traceparent": "00-ab-cd-01", "x-name": "Ünï \" \\"}
		bare := message("t")
		bare.Payload = nil
		large := message("t")
		large.Payload = make([]byte, broker.MaxPayload)
		publish(t, d, full, bare, large)

		rows := scanAll(t, d)
		if len(rows) != 3 {
			t.Fatalf("%d rows", len(rows))
		}
		for i, want := range []*broker.Message{full, bare, large} {
			got := rows[i].Message
			if rows[i].Seq == 0 || got.Seq != rows[i].Seq || got.Outbox != uuid {
				t.Errorf("row %d: seq %d, message seq %d, outbox %q", i, rows[i].Seq, got.Seq, got.Outbox)
			}
			wanted := *want
			wanted.Seq, wanted.Outbox = got.Seq, got.Outbox
			if len(got.Payload) == 0 && len(wanted.Payload) == 0 {
				wanted.Payload = got.Payload
			}
			if !got.Time.Equal(wanted.Time) {
				t.Errorf("row %d: time %v, want %v", i, got.Time, wanted.Time)
			}
			wanted.Time = got.Time
			if !reflect.DeepEqual(got, wanted) {
				t.Errorf("row %d: got %.300v, want %.300v", i, got, wanted)
			}
		}
	})

	t.Run("a rolled-back row is never seen", func(t *testing.T) {
		d := h.Open(t)
		ctx := testContext(t)
		tx, err := d.DB.BeginTx(ctx, nil)
		must(t, err)
		must(t, d.Store.Insert(ctx, tx, message("t"), true))
		must(t, tx.Rollback())
		if rows := scanAll(t, d); len(rows) != 0 {
			t.Fatalf("rows %v", ids(rows))
		}
		if n := count(t, d.DB, `SELECT count(*) FROM twostep_barrier`); n != 0 {
			t.Fatalf("%d barrier rows", n)
		}
	})

	t.Run("the database refuses impossible rows", func(t *testing.T) {
		d := h.Open(t)
		for name, spoil := range map[string]func(*broker.Message){
			"no topic":          func(m *broker.Message) { m.Topic = "" },
			"topic with space":  func(m *broker.Message) { m.Topic = "a b" },
			"payload too large": func(m *broker.Message) { m.Payload = make([]byte, broker.MaxPayload+1) },
			"id is no UUID":     func(m *broker.Message) { m.ID = "1" },
			"gid too long":      func(m *broker.Message) { m.GID = strings.Repeat("g", 129) },
			"key too long":      func(m *broker.Message) { m.Key = strings.Repeat("k", 513) },
		} {
			ctx := testContext(t)
			tx, err := d.DB.BeginTx(ctx, nil)
			must(t, err)
			m := message("t")
			spoil(m)
			if err := d.Store.Insert(ctx, tx, m, false); err == nil {
				t.Errorf("%s: accepted", name)
			}
			_ = tx.Rollback()
		}
	})

	t.Run("other languages insert topic and payload", func(t *testing.T) {
		d := h.Open(t)
		before := time.Now().Add(-time.Minute)
		exec(t, d.DB, `INSERT INTO twostep_outbox (topic, payload) VALUES ('bank.trans-in', '{"to":"b"}')`)
		rows := scanAll(t, d)
		if len(rows) != 1 {
			t.Fatalf("%d rows", len(rows))
		}
		m := rows[0].Message
		if len(m.ID) != 36 || m.ID[14] != '4' || !strings.ContainsAny(m.ID[19:20], "89ab") {
			t.Errorf("id %q is no random UUID", m.ID)
		}
		if m.GID != m.ID || m.ContentType != "application/json" || string(m.Payload) != `{"to":"b"}` {
			t.Errorf("message %+v", m)
		}
		if m.Time.Before(before) || m.Time.After(time.Now().Add(time.Minute)) {
			t.Errorf("time %v", m.Time)
		}
	})
}

func testGuard(t *testing.T, h Harness) {
	// Each differs from another one in case, length or punctuation only. Collations make some of them equal.
	corpus := []string{
		"abc", "ABC", "aBc", "abc.", "abc-", "abc_", "abc:", "a", "A", "0", "00", "o", "O", "l", "1", "I", "-", "_", ".", ":",
		strings.Repeat("x", 127), strings.Repeat("x", 128), strings.Repeat("X", 128), strings.Repeat("x", 127) + "y",
	}
	t.Run("each gid once", func(t *testing.T) {
		d := h.Open(t)
		ctx := testContext(t)
		for round := range 2 {
			for _, gid := range corpus {
				m := message("t")
				m.GID = gid
				err := d.Store.Transact(ctx, func(tx outbox.Tx) error { return d.Store.Insert(ctx, tx, m, true) })
				if round == 0 && err != nil {
					t.Errorf("gid %q: %v", gid, err)
				}
				if round == 1 && !errors.Is(err, outbox.ErrDuplicate) {
					t.Errorf("gid %q again: %v, want ErrDuplicate", gid, err)
				}
			}
		}
		if n := len(scanAll(t, d)); n != len(corpus) {
			t.Errorf("%d rows, want %d", n, len(corpus))
		}
	})

	t.Run("twice in one transaction", func(t *testing.T) {
		d := h.Open(t)
		ctx := testContext(t)
		tx, err := d.DB.BeginTx(ctx, nil)
		must(t, err)
		defer func() { _ = tx.Rollback() }()
		must(t, d.Store.Insert(ctx, tx, message("t"), true))
		m := message("t")
		m.GID = "g"
		must(t, d.Store.Insert(ctx, tx, m, true))
		m = message("t")
		m.GID = "g"
		if err := d.Store.Insert(ctx, tx, m, true); !errors.Is(err, outbox.ErrDuplicate) {
			t.Fatalf("%v, want ErrDuplicate", err)
		}
	})

	t.Run("free again after a rollback", func(t *testing.T) {
		d := h.Open(t)
		ctx := testContext(t)
		m := message("t")
		m.GID = "g"
		failed := errors.New("business says no")
		err := d.Store.Transact(ctx, func(tx outbox.Tx) error {
			must(t, d.Store.Insert(ctx, tx, m, true))
			return failed
		})
		if !errors.Is(err, failed) {
			t.Fatal(err)
		}
		must(t, d.Store.Transact(ctx, func(tx outbox.Tx) error { return d.Store.Insert(ctx, tx, m, true) }))
	})

	t.Run("of many at once one wins", func(t *testing.T) {
		d := h.Open(t)
		ctx := testContext(t)
		const racers = 8
		results := make(chan error, racers)
		for range racers {
			go func() {
				m := message("t")
				m.GID = "g"
				results <- d.Store.Transact(ctx, func(tx outbox.Tx) error { return d.Store.Insert(ctx, tx, m, true) })
			}()
		}
		won := 0
		for range racers {
			switch err := <-results; {
			case err == nil:
				won++
			case !errors.Is(err, outbox.ErrDuplicate):
				t.Errorf("%v, want ErrDuplicate", err)
			}
		}
		if won != 1 || len(scanAll(t, d)) != 1 {
			t.Fatalf("%d won, %d rows", won, len(scanAll(t, d)))
		}
	})
}
