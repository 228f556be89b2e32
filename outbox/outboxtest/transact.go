package outboxtest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"github.com/twostep-mq/twostep/outbox"
)

func testTransact(t *testing.T, h Harness) {
	t.Run("nil commits and an error rolls back", func(t *testing.T) {
		d := h.Open(t)
		effects(t, d)
		ctx := testContext(t)
		must(t, d.Store.Transact(ctx, func(tx outbox.Tx) error { return addEffect(ctx, tx, "kept") }))
		no := errors.New("no")
		err := d.Store.Transact(ctx, func(tx outbox.Tx) error {
			must(t, addEffect(ctx, tx, "undone"))
			return no
		})
		if !errors.Is(err, no) {
			t.Fatal(err)
		}
		if n := count(t, d.DB, `SELECT count(*) FROM outboxtest_effect WHERE name = 'kept'`); n != 1 {
			t.Fatal("what was committed is not there")
		}
		if n := count(t, d.DB, `SELECT count(*) FROM outboxtest_effect`); n != 1 {
			t.Fatal("what was rolled back is there")
		}
	})

	t.Run("the transaction is managed", func(t *testing.T) {
		d := h.Open(t)
		effects(t, d)
		ctx := testContext(t)
		var kept outbox.Tx
		must(t, d.Store.Transact(ctx, func(tx outbox.Tx) error {
			kept = tx
			if err := tx.Commit(); !errors.Is(err, outbox.ErrManaged) {
				t.Errorf("Commit: %v", err)
			}
			if err := tx.Rollback(); !errors.Is(err, outbox.ErrManaged) {
				t.Errorf("Rollback: %v", err)
			}
			stmt, err := tx.PrepareContext(ctx, `SELECT count(*) FROM outboxtest_effect`)
			must(t, err)
			defer func() { _ = stmt.Close() }()
			must(t, addEffect(ctx, tx, "mine"))
			var prepared, direct int
			must(t, stmt.QueryRowContext(ctx).Scan(&prepared))
			must(t, tx.QueryRowContext(ctx, `SELECT count(*) FROM outboxtest_effect`).Scan(&direct))
			if prepared != 1 || direct != 1 {
				t.Errorf("it does not see its own rows: %d, %d", prepared, direct)
			}
			return nil
		}))
		if err := addEffect(ctx, kept, "late"); err == nil {
			t.Error("the transaction can be used after its end")
		}
		if err := kept.QueryRowContext(ctx, `SELECT 1`).Scan(new(int)); err == nil {
			t.Error("the transaction can be read after its end")
		}
	})

	t.Run("concurrent calls each fail or succeed alone", func(t *testing.T) { transactMany(t, h.Open(t)) })
	t.Run("a panic is its caller's", func(t *testing.T) { transactPanics(t, h.Open(t)) })
	t.Run("a cancelled call fails alone", func(t *testing.T) { transactCancelled(t, h.Open(t)) })
	t.Run("COMMIT or ROLLBACK as SQL hurts nobody else", func(t *testing.T) { transactRaw(t, h) })
}

// atOnce runs f(0) … f(n-1) at the same time and waits.
func atOnce(n int, f func(i int)) {
	start := make(chan struct{})
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			<-start
			f(i)
		})
	}
	close(start)
	all.Wait()
}

func transactMany(t *testing.T, d Database) {
	effects(t, d)
	ctx := testContext(t)
	const callers, rounds = 16, 10
	no := errors.New("no")
	atOnce(callers, func(i int) {
		for r := range rounds {
			name := fmt.Sprintf("%d-%d", i, r)
			fails := (i+r)%5 == 0
			err := d.Store.Transact(ctx, func(tx outbox.Tx) error {
				if err := addEffect(ctx, tx, name); err != nil {
					return err
				}
				if err := d.Store.Insert(ctx, tx, message("t"), false); err != nil {
					return err
				}
				if fails {
					return no
				}
				return nil
			})
			if fails != errors.Is(err, no) || !fails && err != nil {
				t.Errorf("%s: %v", name, err)
			}
			// It is durable, and seen by others, when Transact has returned.
			if n := count(t, d.DB, fmt.Sprintf(`SELECT count(*) FROM outboxtest_effect WHERE name = '%s'`, name)); (n == 1) == fails {
				t.Errorf("%s: fails %v, and %d rows", name, fails, n)
			}
		}
	})
	effects := count(t, d.DB, `SELECT count(*) FROM outboxtest_effect`)
	if rows := len(scanAll(t, d)); rows != effects || effects != callers*rounds*4/5 {
		t.Fatalf("%d effects and %d messages", effects, rows)
	}
}

func transactPanics(t *testing.T, d Database) {
	effects(t, d)
	ctx := testContext(t)
	atOnce(9, func(i int) {
		name := fmt.Sprint(i)
		switch i % 3 {
		case 0:
			if err := d.Store.Transact(ctx, func(tx outbox.Tx) error { return addEffect(ctx, tx, name) }); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		case 1:
			defer func() {
				if got := recover(); got != "boom "+name {
					t.Errorf("%s: recovered %v", name, got)
				}
			}()
			_ = d.Store.Transact(ctx, func(tx outbox.Tx) error {
				_ = addEffect(ctx, tx, name)
				panic("boom " + name)
			})
		case 2: // what t.FailNow does
			_ = d.Store.Transact(ctx, func(tx outbox.Tx) error {
				_ = addEffect(ctx, tx, name)
				runtime.Goexit()
				return nil
			})
		}
	})
	if n := count(t, d.DB, `SELECT count(*) FROM outboxtest_effect`); n != 3 {
		t.Fatalf("%d effects, want 3", n)
	}
	must(t, d.Store.Transact(ctx, func(tx outbox.Tx) error { return addEffect(ctx, tx, "after") }))
}

func transactCancelled(t *testing.T, d Database) {
	effects(t, d)
	ctx := testContext(t)
	gone, cancel := context.WithCancel(ctx)
	cancel()
	ran := false
	if err := d.Store.Transact(gone, func(outbox.Tx) error { ran = true; return nil }); !errors.Is(err, context.Canceled) || ran {
		t.Errorf("cancelled before: %v, ran %v", err, ran)
	}
	atOnce(8, func(i int) {
		name := fmt.Sprint(i)
		if i%2 == 0 {
			if err := d.Store.Transact(ctx, func(tx outbox.Tx) error { return addEffect(ctx, tx, name) }); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			return
		}
		mine, cancel := context.WithCancel(ctx)
		defer cancel()
		err := d.Store.Transact(mine, func(tx outbox.Tx) error {
			if err := addEffect(mine, tx, name); err != nil {
				return err
			}
			cancel()
			if i%4 == 1 {
				return nil // who has given up is not surprised by a commit
			}
			return addEffect(mine, tx, name+"b")
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v, want context.Canceled", name, err)
		}
	})
	if n := count(t, d.DB, `SELECT count(*) FROM outboxtest_effect`); n != 4 {
		t.Fatalf("%d effects, want 4", n)
	}
}

// transactRaw ends the shared transaction from within. The others may run again, but exactly one of their runs counts.
func transactRaw(t *testing.T, h Harness) {
	for name, statements := range map[string][]string{
		"COMMIT":          {"COMMIT"},
		"ROLLBACK":        {"ROLLBACK"},
		"ROLLBACK, BEGIN": {"ROLLBACK", "BEGIN"},
		"COMMIT, BEGIN":   {"COMMIT", "BEGIN"},
	} {
		t.Run(name, func(t *testing.T) {
			d := h.Open(t)
			effects(t, d)
			ctx := testContext(t)
			atOnce(12, func(i int) {
				name := fmt.Sprint(i)
				raw := i%4 == 1
				err := d.Store.Transact(ctx, func(tx outbox.Tx) error {
					if err := addEffect(ctx, tx, name); err != nil {
						return err
					}
					if raw {
						for _, statement := range statements {
							_, _ = tx.ExecContext(ctx, statement) // the error is swallowed
						}
						_ = addEffect(ctx, tx, name+"b")
					}
					return nil
				})
				if raw != (err != nil) {
					t.Errorf("%s: raw %v, and %v", name, raw, err)
				}
			})
			const innocent = 9
			n := count(t, d.DB, `SELECT count(*) FROM outboxtest_effect WHERE name NOT IN ('1', '5', '9', '1b', '5b', '9b')`)
			if n != innocent {
				t.Errorf("%d of %d innocent functions count", n, innocent)
			}
			if all := count(t, d.DB, `SELECT count(*) FROM outboxtest_effect`); !h.RawCommitStands && all != innocent {
				t.Errorf("%d effects of functions that failed stand", all-innocent)
			}
		})
	}
}
