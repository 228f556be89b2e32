package outboxtest

import (
	"reflect"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/outbox"
)

func testRows(t *testing.T, h Harness) {
	t.Run("scanned in pages, in order", func(t *testing.T) {
		d := h.Open(t)
		want := publishN(t, d, 25)
		var got []string
		after := int64(0)
		for {
			p, err := d.Relay.Scan(testContext(t), after, 10, true)
			must(t, err)
			if p.Server == "" {
				t.Fatal("no server identity")
			}
			if len(p.Rows) == 0 {
				break
			}
			for _, row := range p.Rows {
				if row.Seq <= after {
					t.Fatalf("row %d after %d", row.Seq, after)
				}
				after = row.Seq
				got = append(got, row.ID)
			}
			if p.Counter != 0 && p.Counter < after {
				t.Fatalf("counter %d below row %d", p.Counter, after)
			}
		}
		if len(got) != len(want) {
			t.Fatalf("%d rows, want %d", len(got), len(want))
		}
		for i := range want {
			if got[i] != want[i].ID {
				t.Fatalf("row %d is %s, want %s", i, got[i], want[i].ID)
			}
		}
	})

	t.Run("without payload", func(t *testing.T) {
		d := h.Open(t)
		m := message("t")
		m.Key = "k"
		publish(t, d, m)
		p, err := d.Relay.Scan(testContext(t), 0, 10, false)
		must(t, err)
		if len(p.Rows) != 1 || p.Rows[0].Key != "k" || p.Rows[0].ID != m.ID || len(p.Rows[0].Payload) != 0 {
			t.Fatalf("%+v", p.Rows)
		}
	})

	t.Run("a page ends behind its bytes", func(t *testing.T) { testPageBytes(t, h.Open(t)) })

	t.Run("read by number", func(t *testing.T) {
		d := h.Open(t)
		publishN(t, d, 5)
		rows := scanAll(t, d)
		p, err := d.Relay.Read(testContext(t), []int64{rows[3].Seq, rows[1].Seq, rows[4].Seq + 1000})
		must(t, err)
		if !reflect.DeepEqual(p.Rows, []outbox.Row{rows[1], rows[3]}) {
			t.Fatalf("read %+v", p.Rows)
		}
		if p, err := d.Relay.Read(testContext(t), nil); err != nil || len(p.Rows) != 0 {
			t.Fatalf("read nothing: %+v, %v", p.Rows, err)
		}
	})

	t.Run("a released number is not given out again", func(t *testing.T) {
		d := h.Open(t)
		publishN(t, d, 3)
		rows := scanAll(t, d)
		release(t, d, take(t, d, "r"), rows...)
		empty, err := d.Relay.Scan(testContext(t), 0, 10, true)
		must(t, err)
		publishN(t, d, 1)
		p, err := d.Relay.Scan(testContext(t), 0, 10, true)
		must(t, err)
		if len(empty.Rows) != 0 || p.Rows[0].Seq <= rows[2].Seq {
			t.Fatalf("row %d after %d was released", p.Rows[0].Seq, rows[2].Seq)
		}
		if empty.Counter > p.Counter {
			t.Fatalf("counter goes from %d to %d", empty.Counter, p.Counter)
		}
	})

	t.Run("another server has another name", func(t *testing.T) {
		d := h.Open(t)
		if d.Restore == nil {
			t.Skip("this harness has no second server")
		}
		publishN(t, d, 1)
		l := take(t, d, "r")
		before, err := d.Relay.Scan(testContext(t), 0, 10, true)
		must(t, err)
		d.Restore(t)
		after, err := d.Relay.Scan(testContext(t), 0, 10, true)
		must(t, err)
		loaded, err := d.Relay.Load(testContext(t))
		must(t, err)
		if before.Server == after.Server || loaded.Server != after.Server {
			t.Fatalf("server was %q, is %q, loaded %q", before.Server, after.Server, loaded.Server)
		}
		row := before.Rows[0]
		_, err = d.Relay.Commit(testContext(t), l, outbox.Checkpoint{Server: before.Server, Release: []outbox.RowID{{Seq: row.Seq, ID: row.ID}}})
		wantError(t, err, outbox.ErrServerChanged)
		if len(scanAll(t, d)) != 1 {
			t.Fatal("a row of the new server was released by the old one's memory")
		}
	})
}

// release deletes rows as a relay does.
func release(t *testing.T, d Database, l outbox.Lease, rows ...outbox.Row) {
	t.Helper()
	loaded, err := d.Relay.Load(testContext(t))
	must(t, err)
	c := outbox.Checkpoint{Server: loaded.Server}
	for _, row := range rows {
		c.Release = append(c.Release, outbox.RowID{Seq: row.Seq, ID: row.ID})
	}
	_, err = d.Relay.Commit(testContext(t), l, c)
	must(t, err)
}

func testGaps(t *testing.T, h Harness) {
	// Rows 1–10 (or what the database numbers them) without the 3rd, the 4th and the 8th. gap has the mark of a scan, as a relay's has.
	open := func(t *testing.T) (d Database, rows []outbox.Row, gap func(from, to outbox.Row) outbox.Gap) {
		d = h.Open(t)
		publishN(t, d, 10)
		rows = scanAll(t, d)
		release(t, d, take(t, d, "r"), rows[2], rows[3], rows[7])
		p, err := d.Relay.Scan(testContext(t), 0, 10, true)
		must(t, err)
		return d, rows, func(from, to outbox.Row) outbox.Gap {
			return outbox.Gap{From: from.Seq, To: to.Seq, Age: h.GapAge, Mark: p.Mark}
		}
	}

	t.Run("what is gone is closed, what is there is found", func(t *testing.T) {
		d, rows, gap := open(t)
		found, closed := probe(t, h, d, []outbox.Gap{gap(rows[1], rows[5]), gap(rows[7], rows[7])}, 100)
		if !reflect.DeepEqual(ids(found), ids([]outbox.Row{rows[1], rows[4], rows[5]})) {
			t.Errorf("found %v", ids(found))
		}
		want := map[int64]bool{rows[2].Seq: true, rows[3].Seq: true, rows[7].Seq: true}
		if got := numbers(closed); !reflect.DeepEqual(got, want) {
			t.Errorf("closed %v, want %v", got, want)
		}
	})

	t.Run("a probe that is cut off closes nothing behind the cut", func(t *testing.T) {
		d, rows, gap := open(t)
		found, closed := probe(t, h, d, []outbox.Gap{gap(rows[0], rows[9])}, 3)
		if !reflect.DeepEqual(ids(found), ids([]outbox.Row{rows[0], rows[1], rows[4]})) {
			t.Errorf("found %v", ids(found))
		}
		if numbers(closed)[rows[7].Seq] {
			t.Errorf("closed %v: not all of it was read", numbers(closed))
		}
	})

	t.Run("nothing asked, nothing told", func(t *testing.T) {
		d, _, _ := open(t)
		if found, closed := probe(t, h, d, nil, 10); len(found) != 0 || len(closed) != 0 {
			t.Errorf("found %v, closed %v", found, closed)
		}
	})

	t.Run("an open transaction's row is not closed", func(t *testing.T) {
		if !h.OutOfOrder {
			t.Skip("rows of this database become visible in the order of their numbers")
		}
		d := h.Open(t)
		ctx := testContext(t)
		late, err := d.DB.BeginTx(ctx, nil)
		must(t, err)
		defer func() { _ = late.Rollback() }()
		m := message("t")
		must(t, d.Store.Insert(ctx, late, m, false))
		publishN(t, d, 2)
		first := scanAll(t, d)[0].Seq
		p, err := d.Relay.Scan(ctx, 0, 10, true)
		must(t, err)
		gaps := []outbox.Gap{{From: first - 1, To: first - 1, Age: h.GapAge, Mark: p.Mark}}
		if _, closed, err := d.Relay.Probe(ctx, gaps, 10); err != nil || len(closed) != 0 {
			t.Fatalf("closed %v (%v) while its transaction is open", closed, err)
		}
		must(t, late.Commit())
		got, _, err := d.Relay.Probe(ctx, gaps, 10)
		if err != nil || len(got.Rows) != 1 || got.Rows[0].ID != m.ID {
			t.Fatalf("found %v (%v)", got.Rows, err)
		}
	})
}

// probe probes until every number asked for that has no row is closed, as far as the limit allows.
func probe(t *testing.T, h Harness, d Database, gaps []outbox.Gap, limit int) (rows []outbox.Row, closed []outbox.Gap) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		p, closed, err := d.Relay.Probe(testContext(t), gaps, limit)
		must(t, err)
		if len(closed) > 0 || len(gaps) == 0 || !h.OutOfOrder {
			return p.Rows, closed
		}
		if time.Now().After(deadline) {
			t.Fatal("the gaps do not close")
		}
	}
}

func numbers(gaps []outbox.Gap) map[int64]bool {
	all := map[int64]bool{}
	for _, g := range gaps {
		for seq := g.From; seq <= g.To; seq++ {
			all[seq] = true
		}
	}
	return all
}
