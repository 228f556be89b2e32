package mysql_test

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/adapters/mysql"
)

// TestIdleRelay counts what a relay asks the server when there is nothing to do, also with a row that waits.
func TestIdleRelay(t *testing.T) { onEachServer(t, testIdleRelay) }

func testIdleRelay(t *testing.T, on testServer) {
	const most = 150 // statements a minute
	watch := 12 * time.Second
	if os.Getenv("TWOSTEP_LONG") != "" {
		watch = time.Minute
	}
	s := on.startOwn(t)
	db := openDSN(t, s.dsn.FormatDSN())
	migrate(t, db, mysql.Config{})
	p := newPipeline(t, db, nil)
	p.handle(t, "effects", effect)() // a subscription that stays away
	noError(t, insert(t, db, p.store, 1).Commit())
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	waitFor(ctx, t, db, "SELECT `cursor` >= (SELECT MAX(seq) FROM twostep_outbox) FROM twostep_outbox_confirmer WHERE confirmer = 'broker'")
	questions := func() int {
		var name string
		var n int
		noError(t, db.QueryRowContext(ctx, "SHOW GLOBAL STATUS LIKE 'Questions'").Scan(&name, &n))
		return n
	}
	pause(ctx, 6*time.Second) // bursts of polls after the work
	// What comes once in a while (a late report, a gap that closes) must not decide: the calmest of some looks counts.
	for look := 1; ; look++ {
		before, begun := questions(), time.Now()
		pause(ctx, watch)
		perMinute := float64(questions()-before-1) / time.Since(begun).Minutes()
		t.Logf("%.0f statements a minute", perMinute)
		if perMinute <= most {
			return
		}
		if look == 3 {
			t.Fatalf("an idle relay sends %.0f statements a minute, want at most %d", perMinute, most)
		}
	}
}
