package topicstest

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/twostep-mq/twostep/orchestrator/txn"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

func testClaim(t *testing.T, h Harness) {
	t.Run("once, then the stored outcome", func(t *testing.T) {
		d := h.Open(t)
		ids := newIDs(4)
		wantOutcomes(t, claim(t, d, uidA, txn.Success, ids[0]), "")
		wantOutcomes(t, claim(t, d, uidA, txn.Parked, ids[1]), "")
		wantOutcomes(t, claim(t, d, uidA, txn.Dropped, ids[2]), "")
		wantOutcomes(t, claim(t, d.Another(t), uidA, txn.Success, ids[3], ids[2], ids[0], ids[1]), "", txn.Dropped, txn.Success, txn.Parked)
		wantOutcomes(t, claim(t, d, uidA, txn.Success, ids...), txn.Success, txn.Parked, txn.Dropped, txn.Success)
	})

	t.Run("schedule 1: two subscriptions in one database", func(t *testing.T) {
		d := h.Open(t)
		id := newID()
		wantOutcomes(t, claim(t, d, uidA, txn.Success, id), "")
		wantOutcomes(t, claim(t, d, uidB, txn.Success, id), "")
		wantOutcomes(t, claim(t, d, uidA, txn.Success, id), txn.Success)
	})

	t.Run("rolled back is free again", func(t *testing.T) {
		d := h.Open(t)
		ids := newIDs(2)
		ctx := testContext(t)
		tx, err := d.Store.Begin(ctx)
		must(t, err)
		_, err = tx.Claim(ctx, uidA, ids, txn.Success)
		must(t, err)
		must(t, tx.Rollback())
		wantOutcomes(t, claim(t, d, uidA, txn.Success, ids...), "", "")
	})

	t.Run("no ids", func(t *testing.T) {
		d := h.Open(t)
		wantOutcomes(t, claim(t, d, uidA, txn.Success))
	})

	t.Run("many ids", func(t *testing.T) {
		d := h.Open(t)
		ids := newIDs(1000)
		claim(t, d, uidA, txn.Success, ids[100:200]...)
		for i, o := range claim(t, d, uidA, txn.Parked, ids...) {
			if stood := i >= 100 && i < 200; stood != (o == txn.Success) || !stood && o != "" {
				t.Fatalf("id %d: %q", i, o)
			}
		}
	})

	t.Run("identifiers are compared byte for byte", func(t *testing.T) {
		d := h.Open(t)
		corpus := []string{
			"abc", "ABC", "Abc", "abc ", "abc  ", " abc", "abc\t", "abc\n", "àbc", "a\u0300bc", "äbc", "a\u0308bc", "ａｂｃ", "abç",
			"strasse", "straße", "STRASSE", "ı", "i", "I", "İ", "ß", "ss", "æ", "ae", "\u00ad", "\u200b", "\u200babc", "œ", "\u00c5", "\u212b", "A\u030a",
			"abc%", "abc_", `abc\`, `abc"`, "abc'", "abc`", "abc;", "1", "01", "1.0", "1e0", "0x1", "null", "NULL", "true", "[1]", `{"a":1}`,
			"日本", "日本 ", "😀", "😁", "bank.t/0/17@1700000000000000000", "bank.t/0/17@1700000000000000001",
			strings.Repeat("x", 255), strings.Repeat("x", 256), strings.Repeat("X", 256), strings.Repeat("é", 128),
		}
		for i, o := range claim(t, d, uidA, txn.Success, corpus...) {
			if o != "" {
				t.Errorf("%q collides with another one", corpus[i])
			}
		}
		for i, o := range claim(t, d, uidA, txn.Success, corpus...) {
			if o != txn.Success {
				t.Errorf("%q is not found again: %q", corpus[i], o)
			}
		}
	})

	t.Run("an id the database cannot keep is an error", func(t *testing.T) {
		d := h.Open(t)
		for _, id := range []string{"", strings.Repeat("x", 257), "a\x00b", "a\xffb"} {
			ctx := testContext(t)
			tx, err := d.Store.Begin(ctx)
			must(t, err)
			if _, err := tx.Claim(ctx, uidA, []string{id}, txn.Success); err == nil {
				t.Errorf("%.20q: accepted", id)
			}
			_ = tx.Rollback()
		}
	})

	t.Run("taken back", func(t *testing.T) {
		d := h.Open(t)
		ids := newIDs(3)
		claim(t, d, uidA, txn.Success, ids[2])
		inTx(t, d, func(ctx context.Context, tx topics.StoreTx) {
			_, err := tx.Claim(ctx, uidA, ids, txn.Success)
			must(t, err)
			must(t, tx.Unclaim(ctx, uidA, ids[:1]))
			if err := tx.Unclaim(ctx, uidA, ids[2:]); err == nil {
				t.Error("took back what another transaction wrote")
			}
			got, err := tx.Claimed(ctx, uidA, ids)
			must(t, err)
			if got[ids[0]] || !got[ids[1]] || !got[ids[2]] {
				t.Errorf("claimed: %v", got)
			}
			if got, err := tx.Claimed(ctx, uidB, ids); err != nil || got[ids[1]] {
				t.Errorf("claimed by another subscription: %v, %v", got, err)
			}
		})
		wantOutcomes(t, claim(t, d, uidA, txn.Success, ids...), "", txn.Success, txn.Success)
	})
}

func testTransaction(t *testing.T, h Harness) {
	t.Run("barrier and effect are one", func(t *testing.T) {
		d := h.Open(t)
		effects(t, d)
		ids := newIDs(2)
		inTx(t, d, func(ctx context.Context, tx topics.StoreTx) {
			_, err := tx.Claim(ctx, uidA, ids[:1], txn.Success)
			must(t, err)
			must(t, addEffect(ctx, tx, "kept"))
			if err := tx.Tx().Commit(); !errors.Is(err, outbox.ErrManaged) {
				t.Errorf("Commit: %v", err)
			}
			if err := tx.Tx().Rollback(); !errors.Is(err, outbox.ErrManaged) {
				t.Errorf("Rollback: %v", err)
			}
		})
		ctx := testContext(t)
		tx, err := d.Store.Begin(ctx)
		must(t, err)
		_, err = tx.Claim(ctx, uidA, ids[1:], txn.Success)
		must(t, err)
		must(t, addEffect(ctx, tx, "undone"))
		must(t, tx.Rollback())
		must(t, tx.Rollback())
		wantOutcomes(t, stands(t, d, uidA, ids...), txn.Success, "")
		if n := countEffects(t, d); n != 1 {
			t.Fatalf("%d effects", n)
		}
	})

	t.Run("rollback after commit does nothing", func(t *testing.T) {
		d := h.Open(t)
		ctx := testContext(t)
		id := newID()
		tx, err := d.Store.Begin(ctx)
		must(t, err)
		_, err = tx.Claim(ctx, uidA, []string{id}, txn.Success)
		must(t, err)
		must(t, tx.Commit(ctx))
		must(t, tx.Rollback())
		wantOutcomes(t, stands(t, d, uidA, id), txn.Success)
		if err := addEffect(ctx, tx, "late"); err == nil {
			t.Error("the handler's transaction can be used after its end")
		}
	})

	t.Run("cancelling the beginning does not end it", func(t *testing.T) {
		d := h.Open(t)
		ctx, cancel := context.WithCancel(testContext(t))
		tx, err := d.Store.Begin(ctx)
		must(t, err)
		defer func() { _ = tx.Rollback() }()
		id := newID()
		_, err = tx.Claim(ctx, uidA, []string{id}, txn.Success)
		must(t, err)
		cancel()
		must(t, tx.Commit(testContext(t)))
		wantOutcomes(t, stands(t, d, uidA, id), txn.Success)
	})

	// Schedule 7. Whether it begins with Claim or with Lock: Commit finds out.
	for _, raw := range [][]string{
		{"COMMIT"}, {"ROLLBACK"}, {"COMMIT", "BEGIN"}, {"ROLLBACK", "BEGIN"}, {"COMMIT; BEGIN"}, {"ROLLBACK; BEGIN"},
		{"ROLLBACK", "BEGIN", "COMMIT"}, {"COMMIT", "COMMIT", "ROLLBACK"},
	} {
		t.Run("schedule 7: "+strings.Join(raw, ", "), func(t *testing.T) { rawEnd(t, h, raw) })
	}
}

// rawEnd has a handler end its transaction by itself, swallowing every error.
func rawEnd(t *testing.T, h Harness, statements []string) {
	for name, start := range map[string]func(context.Context, *testing.T, topics.StoreTx, topics.Parked){
		"claim": func(ctx context.Context, t *testing.T, tx topics.StoreTx, _ topics.Parked) {
			_, err := tx.Claim(ctx, uidA, []string{"fresh"}, txn.Success)
			must(t, err)
		},
		"lock": func(ctx context.Context, t *testing.T, tx topics.StoreTx, p topics.Parked) {
			_, err := tx.Lock(ctx, p.Subscription, p.Message.ID)
			must(t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := h.Open(t)
			effects(t, d)
			p := parked(uidA, "k", topics.ParkedWaiting, 0)
			park(t, d, p)
			ctx := testContext(t)
			tx, err := d.Store.Begin(ctx)
			must(t, err)
			defer func() { _ = tx.Rollback() }()
			start(ctx, t, tx, p)
			if name == "claim" {
				must(t, addEffect(ctx, tx, "before"))
			}
			for _, statement := range statements {
				_, _ = tx.Tx().ExecContext(ctx, statement)
			}
			_ = addEffect(ctx, tx, "after")
			if err := tx.Commit(ctx); !errors.Is(err, topics.ErrTransactionLost) {
				t.Fatalf("commit: %v, want ErrTransactionLost", err)
			}
			if h.RawCommitStands {
				return
			}
			if n := countEffects(t, d); n != 0 {
				t.Errorf("%d effects stand", n)
			}
			wantOutcomes(t, stands(t, d, uidA, "fresh", p.Message.ID), "", txn.Parked)
		})
	}
	t.Run("rolled back", func(t *testing.T) {
		d := h.Open(t)
		ctx := testContext(t)
		tx, err := d.Store.Begin(ctx)
		must(t, err)
		_, err = tx.Claim(ctx, uidA, []string{"fresh"}, txn.Success)
		must(t, err)
		for _, statement := range statements {
			_, _ = tx.Tx().ExecContext(ctx, statement)
		}
		if err := tx.Rollback(); !errors.Is(err, topics.ErrTransactionLost) {
			t.Errorf("rollback tells %v, want ErrTransactionLost", err)
		}
	})
}
