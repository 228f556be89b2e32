package postgres_test

import (
	"database/sql"
	"strings"
	"testing"

	"github.com/twostep-mq/twostep/adapters/postgres"
)

// TestQueryPlans: no query of the hot paths reads a whole table, or all that a subscription has parked.
func TestQueryPlans(t *testing.T) {
	db, _ := open(t, extended)
	db.SetMaxOpenConns(1)
	ctx := t.Context()
	_, err := db.ExecContext(ctx, `
INSERT INTO twostep_outbox (topic, payload) SELECT 'bank.t', 'x' FROM generate_series(1, 30000);
INSERT INTO twostep_barrier (gid, branch_id, op, barrier_id, outcome) SELECT gen_random_uuid()::text, 'sub', 'action', '01', 'success' FROM generate_series(1, 30000);
INSERT INTO twostep_parked (subscription, id, topic, "key", state, payload)
  SELECT 'sub', n::text, 't', CASE WHEN n % 3 = 0 THEN '' ELSE 'key ' || n % 50 END, CASE WHEN n % 100 = 0 THEN 'dead' ELSE 'held' END, 'x' FROM generate_series(1, 30000) n;
ANALYZE twostep_outbox, twostep_barrier, twostep_parked`)
	noError(t, err)
	// The plan for any parameters: how many there are is not known then, as with a statement prepared long ago.
	noError(t, errOf(db.ExecContext(ctx, `SET plan_cache_mode = force_generic_plan`)))
	for name, query := range postgres.Queries() {
		n := 0
		for strings.Contains(query, "$"+string(rune('1'+n))) {
			n++
		}
		noError(t, errOf(db.ExecContext(ctx, `PREPARE q AS `+query)))
		plan := explained(t, db, `q(`+strings.TrimSuffix(strings.Repeat("NULL,", n), ",")+`)`)
		noError(t, errOf(db.ExecContext(ctx, `DEALLOCATE q`)))
		text := strings.Join(plan, "\n")
		// Both have a single row.
		text = strings.NewReplacer("Seq Scan on twostep_outbox_meta", "", "Seq Scan on twostep_outbox_seq", "").Replace(text)
		// Of a join by sorting or hashing one side is the whole table; the release's are its own arrays.
		joins := strings.Contains(text, "Merge Join") || strings.Contains(text, "Hash Join") && name != "release"
		if strings.Contains(text, "Seq Scan on twostep_") || joins || len(plan) == 0 {
			t.Errorf("%s reads a whole table:\n%s", name, text)
		}
		t.Logf("%s:\n%s", name, text)
	}
}

func explained(t *testing.T, db *sql.DB, call string) (plan []string) {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), `EXPLAIN (COSTS OFF) EXECUTE `+call)
	noError(t, err)
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var line string
		noError(t, rows.Scan(&line))
		plan = append(plan, line)
	}
	noError(t, rows.Err())
	return plan
}
