package sqlite_test

import (
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/adapters/sqlite"
)

// schema lists what a database has, as text.
func schema(t *testing.T, db *sql.DB) []string {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), `SELECT type || ' ' || name || ' ' || coalesce(sql, '') FROM sqlite_master ORDER BY 1`)
	noError(t, err)
	defer func() { _ = rows.Close() }()
	var all []string
	for rows.Next() {
		var s string
		noError(t, rows.Scan(&s))
		all = append(all, strings.Join(strings.Fields(s), " "))
	}
	noError(t, rows.Err())
	return all
}

func TestMigrateByHandIsTheSame(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	byGoose, _ := open(t)
	byHand := openAt(t, filepath.Join(t.TempDir(), "hand.db"))
	c, err := byHand.Conn(ctx)
	noError(t, err)
	for _, set := range []sqlite.Set{sqlite.Service, sqlite.Orchestrator} {
		list, err := sqlite.MigrationsSQL(set)
		noError(t, err)
		if len(list) == 0 {
			t.Fatalf("%s has no migrations", set)
		}
		for _, m := range list {
			_, err := c.ExecContext(ctx, m.SQL)
			noError(t, err)
		}
	}
	noError(t, c.Close())
	if got, want := schema(t, byHand), schema(t, byGoose); !reflect.DeepEqual(got, want) {
		t.Errorf("by hand:\n%s\n\nby Migrate:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, set := range []sqlite.Set{sqlite.Service, sqlite.Orchestrator} {
		noError(t, sqlite.Migrate(ctx, byHand, set)) // nothing is left to do
	}
	for _, name := range tableNames(t, byHand) {
		if !strings.HasPrefix(name, "twostep_") && !strings.HasPrefix(name, "sqlite_") {
			t.Errorf("table %s lacks the prefix", name)
		}
	}
}

func tableNames(t *testing.T, db *sql.DB) (names []string) {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), `SELECT name FROM sqlite_master WHERE type = 'table'`)
	noError(t, err)
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var s string
		noError(t, rows.Scan(&s))
		names = append(names, s)
	}
	noError(t, rows.Err())
	return names
}

func TestStatus(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	db := openAt(t, filepath.Join(t.TempDir(), "a.db"))
	for _, applied := range []bool{false, true} {
		list, err := sqlite.Status(ctx, db, sqlite.Service)
		noError(t, err)
		for _, m := range list {
			if m.AppliedAt.IsZero() == applied || applied && time.Since(m.AppliedAt).Abs() > time.Minute {
				t.Errorf("%s applied at %v, want applied: %v", m.Name, m.AppliedAt, applied)
			}
		}
		noError(t, sqlite.Migrate(ctx, db, sqlite.Service))
	}
	if _, err := sqlite.Status(ctx, db, "other"); err == nil || !strings.Contains(err.Error(), `"service"`) {
		t.Errorf("an unknown set: %v", err)
	}
}

// TestMigrateAtOnce has many pools migrate one new file. TestProcessesMigrateAtOnce does it with processes.
func TestMigrateAtOnce(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.db")
	const racers = 8
	results := make(chan error, racers)
	for range racers {
		go func() {
			db, err := sqlite.Open(path)
			if err == nil {
				defer func() { _ = db.Close() }()
				err = migrateBoth(context.Background(), db)
			}
			results <- err
		}()
	}
	for range racers {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	var uuids int
	noError(t, openAt(t, path).QueryRowContext(t.Context(), `SELECT count(*) FROM twostep_outbox_meta`).Scan(&uuids))
	if uuids != 1 {
		t.Errorf("%d UUIDs", uuids)
	}
}

func migrateBoth(ctx context.Context, db *sql.DB) error {
	if err := sqlite.Migrate(ctx, db, sqlite.Service); err != nil {
		return err
	}
	return sqlite.Migrate(ctx, db, sqlite.Orchestrator)
}

// TestImpossibleRows: what no code of ours writes, the database refuses whoever writes it.
func TestImpossibleRows(t *testing.T) {
	t.Parallel()
	db, _ := open(t)
	const id = `'019e0000-0000-7000-8000-000000000001'`
	for _, bad := range []string{
		`INSERT INTO twostep_outbox (topic, payload) VALUES ('t', NULL)`,
		`INSERT INTO twostep_outbox (topic, payload) VALUES ('t', 1)`,
		`INSERT INTO twostep_outbox (topic, payload) VALUES ('t', zeroblob(1000001))`,
		`INSERT INTO twostep_outbox (topic, payload) VALUES ('ä', 'x')`,
		`INSERT INTO twostep_outbox (topic, payload) VALUES ('a' || char(0) || ' ', 'x')`,
		`INSERT INTO twostep_outbox (topic, payload, headers) VALUES ('t', 'x', 'no json')`,
		`INSERT INTO twostep_outbox (topic, payload, headers) VALUES ('t', 'x', '[1]')`,
		`INSERT INTO twostep_outbox (topic, payload, gid) VALUES ('t', 'x', 'a b')`,
		`INSERT INTO twostep_outbox (topic, payload, created_at) VALUES ('t', 'x', 'now')`,
		`INSERT INTO twostep_outbox (topic, payload, id) VALUES ('t', 'x', upper(` + id + `))`,
		`INSERT INTO twostep_outbox (topic, payload, id) VALUES ('t', 'x', CAST(` + id + ` AS BLOB))`,
		`INSERT INTO twostep_outbox_meta (one) VALUES (2)`,
		`INSERT INTO twostep_outbox_meta DEFAULT VALUES`,
		`UPDATE twostep_outbox_meta SET epoch = -1`,
		`INSERT INTO twostep_outbox_confirmer (confirmer, bitmap) VALUES ('somebody', x'')`,
		`INSERT INTO twostep_outbox_confirmer (confirmer, bitmap) VALUES (` + id + `, x'')`,
		`INSERT INTO twostep_outbox_topic (name, delivery, no_subscribers, keyed, version) VALUES ('t', 'maybe', 'hold', 0, 1)`,
		`INSERT INTO twostep_barrier (gid, branch_id, op, barrier_id, outcome) VALUES ('g', '01', 'action', '01', 'perhaps')`,
		`INSERT INTO twostep_barrier (gid, branch_id, op, barrier_id, outcome) VALUES ('', '01', 'action', '01', 'success')`,
		`INSERT INTO twostep_barrier (gid, branch_id, op, barrier_id, outcome) VALUES ('g', NULL, 'action', '01', 'success')`,
		`INSERT INTO twostep_parked (subscription, id, topic, state, payload) VALUES ('s', 'i', 't', 'lost', 'x')`,
		`INSERT INTO twostep_parked (subscription, id, topic, state, payload, attempts) VALUES ('s', 'i', 't', 'dead', 'x', -1)`,
		`INSERT INTO twostep_registry DEFAULT VALUES`,
		`INSERT INTO twostep_registry_topic (name, delivery, no_subscribers, keyed, version) VALUES ('a b', 'confirmed', 'hold', 0, 1)`,
		`INSERT INTO twostep_registry_subscription (uid, topic, name, created_at) VALUES (` + id + `, 'no-such-topic', 'n', 1)`,
	} {
		if _, err := db.ExecContext(t.Context(), bad); err == nil {
			t.Errorf("accepted: %s", bad)
		}
	}
}

// TestDefaultIDs: the default must make version 4 UUIDs, all different.
func TestDefaultIDs(t *testing.T) {
	t.Parallel()
	db, _ := open(t)
	_, err := db.ExecContext(t.Context(), `INSERT INTO twostep_outbox (topic, payload)
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000) SELECT 't', 'x' FROM n`)
	noError(t, err)
	var distinct, variants int
	noError(t, db.QueryRowContext(t.Context(), `SELECT count(DISTINCT id), count(DISTINCT substr(id, 20, 1)) FROM twostep_outbox
WHERE id GLOB '????????-????-4???-[89ab]???-????????????'`).Scan(&distinct, &variants))
	if distinct != 2000 || variants != 4 {
		t.Errorf("%d distinct ids, %d variants", distinct, variants)
	}
}

// TestMigrationFilesAreNumbered from 1, without a hole.
func TestMigrationFilesAreNumbered(t *testing.T) {
	t.Parallel()
	for _, set := range []sqlite.Set{sqlite.Service, sqlite.Orchestrator} {
		list, err := sqlite.MigrationsSQL(set)
		noError(t, err)
		files, err := os.ReadDir(filepath.Join("migrations", string(set)))
		noError(t, err)
		if len(files) != len(list) {
			t.Errorf("%s: %d files, %d migrations", set, len(files), len(list))
		}
		for i, m := range list {
			if m.Version != int64(i+1) {
				t.Errorf("%s: migration %d has version %d", set, i+1, m.Version)
			}
		}
	}
}
