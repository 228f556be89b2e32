package sqlite_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/twostep-mq/twostep/adapters/sqlite"
)

// TestQueryPlans: no query of the hot paths reads a whole table, or all that a subscription has parked.
func TestQueryPlans(t *testing.T) {
	t.Parallel()
	db, _ := open(t)
	if len(sqlite.Queries) == 0 {
		t.Fatal("no queries")
	}
	for name, query := range sqlite.Queries {
		rows, err := db.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+query, 1, 1, 1, 1, 1)
		if err != nil { // fewer parameters
			rows, err = db.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+query, make([]any, strings.Count(query, "?"))...)
		}
		noError(t, err)
		var plan []string
		for rows.Next() {
			var id, parent, unused int
			var detail string
			noError(t, rows.Scan(&id, &parent, &unused, &detail))
			plan = append(plan, detail)
		}
		noError(t, rows.Err())
		noError(t, rows.Close())
		if len(plan) == 0 {
			t.Errorf("%s: no plan", name)
		}
		for _, step := range plan {
			wholeTable := slices.ContainsFunc([]string{"SCAN o", "SCAN p", "SCAN b", "SCAN twostep"}, func(p string) bool { return strings.HasPrefix(step, p) })
			wholeSubscription := strings.HasSuffix(step, "(subscription=?)")
			if wholeTable || wholeSubscription {
				t.Errorf("%s reads too much: %s\n%s", name, step, strings.Join(plan, "\n"))
			}
		}
		t.Logf("%s:\n\t%s", name, strings.Join(plan, "\n\t"))
	}
}
