package mysql_test

import (
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/adapters/mysql"
)

// schema lists the tables of a database as the server shows them.
func schema(t *testing.T, db *sql.DB) map[string]string {
	t.Helper()
	counter := regexp.MustCompile(` AUTO_INCREMENT=\d+`)
	all := map[string]string{}
	rows, err := db.QueryContext(t.Context(), "SHOW TABLES")
	noError(t, err)
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var name, again, text string
		noError(t, rows.Scan(&name))
		noError(t, db.QueryRowContext(t.Context(), "SHOW CREATE TABLE `"+name+"`").Scan(&again, &text))
		all[name] = counter.ReplaceAllString(text, "")
	}
	noError(t, rows.Err())
	return all
}

func TestMigrateByHandIsTheSame(t *testing.T) { onEachServer(t, testMigrateByHandIsTheSame) }

func testMigrateByHandIsTheSame(t *testing.T, on testServer) {
	byGoose, _ := on.open(t)
	byHand := openDSN(t, with(on.newDatabase(t), "multiStatements=true"))
	for _, set := range []mysql.Set{mysql.Service, mysql.Orchestrator} {
		list, err := mysql.MigrationsSQL(set, mysql.Config{})
		noError(t, err)
		for _, m := range list {
			execAll(t, byHand, m.SQL)
		}
	}
	got, want := schema(t, byHand), schema(t, byGoose)
	if len(got) != len(want) || len(want) != 12 {
		t.Errorf("%d tables by hand, %d by Migrate", len(got), len(want))
	}
	for name, text := range want {
		if got[name] != text {
			t.Errorf("by hand:\n%s\n\nby Migrate:\n%s", got[name], text)
		}
		if !strings.HasPrefix(name, "twostep_") || !strings.Contains(text, "ENGINE=InnoDB") {
			t.Errorf("table %s lacks the prefix, or is not of InnoDB", name)
		}
	}
	before := count(t, byHand, "SELECT COUNT(*) FROM twostep_migration_service")
	migrate(t, byHand, mysql.Config{}) // nothing is left to do
	if after := count(t, byHand, "SELECT COUNT(*) FROM twostep_migration_service"); after != before {
		t.Errorf("%d steps recorded, and then %d", before, after)
	}
}

func TestStatus(t *testing.T) { onEachServer(t, testStatus) }

func testStatus(t *testing.T, on testServer) {
	ctx := t.Context()
	db := openDSN(t, on.newDatabase(t))
	for _, applied := range []bool{false, true} {
		list, err := mysql.Status(ctx, db, mysql.Service, mysql.Config{})
		noError(t, err)
		for _, m := range list {
			if m.AppliedAt.IsZero() == applied || applied && time.Since(m.AppliedAt).Abs() > time.Minute {
				t.Errorf("%s applied at %v, want applied: %v", m.Name, m.AppliedAt, applied)
			}
		}
		noError(t, mysql.Migrate(ctx, db, mysql.Service, mysql.Config{}))
	}
	if _, err := mysql.Status(ctx, db, "other", mysql.Config{}); err == nil || !strings.Contains(err.Error(), `"service"`) {
		t.Errorf("an unknown set: %v", err)
	}
}

func TestMigrateAtOnce(t *testing.T) { onEachServer(t, testMigrateAtOnce) }

func testMigrateAtOnce(t *testing.T, on testServer) {
	dsn := on.newDatabase(t)
	const racers = 10
	results := make(chan error, racers)
	for range racers {
		go func() {
			db, err := mysql.Open(dsn)
			if err == nil {
				defer func() { _ = db.Close() }()
				err = mysql.Migrate(context.Background(), db, mysql.Service, mysql.Config{})
			}
			results <- err
		}()
	}
	for range racers {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if n := count(t, openDSN(t, dsn), "SELECT COUNT(*) FROM twostep_outbox_meta"); n != 1 {
		t.Errorf("%d UUIDs", n)
	}
}

// TestMigrateAfterHalfAStep: the servers commit each CREATE TABLE by itself.
func TestMigrateAfterHalfAStep(t *testing.T) { onEachServer(t, testMigrateAfterHalfAStep) }

func testMigrateAfterHalfAStep(t *testing.T, on testServer) {
	whole, _ := on.open(t)
	db := openDSN(t, with(on.newDatabase(t), "multiStatements=true"))
	list, err := mysql.MigrationsSQL(mysql.Service, mysql.Config{})
	noError(t, err)
	half, _, _ := strings.Cut(list[0].SQL, "CREATE TABLE IF NOT EXISTS `twostep_barrier`")
	half = half[:strings.LastIndex(half, ";\n")]
	execAll(t, db, half)
	uuid := func() (s string) {
		noError(t, db.QueryRowContext(t.Context(), "SELECT uuid FROM twostep_outbox_meta").Scan(&s))
		return s
	}
	before := uuid()
	migrate(t, db, mysql.Config{})
	if after := uuid(); after != before {
		t.Errorf("the outbox had the UUID %s, and has %s", before, after)
	}
	if got, want := len(schema(t, db)), len(schema(t, whole)); got != want {
		t.Errorf("%d tables, want %d", got, want)
	}
}

// TestImpossibleRows: what no code of ours writes, the database refuses whoever writes it, also in a session without strict mode.
func TestImpossibleRows(t *testing.T) { onEachServer(t, testImpossibleRows) }

func testImpossibleRows(t *testing.T, on testServer) {
	strict, dsn := on.open(t)
	lax := openDSN(t, with(dsn, "sql_mode=''"))
	const id = `'019e0000-0000-7000-8000-000000000001'`
	for _, bad := range []string{
		"INSERT INTO twostep_outbox (topic, payload) VALUES ('t', NULL)",
		"INSERT INTO twostep_outbox (topic, payload) VALUES ('', 'x')",
		"INSERT INTO twostep_outbox (topic, payload) VALUES ('t', REPEAT('x', 1000001))",
		"INSERT INTO twostep_outbox (topic, payload) VALUES ('ä', 'x')",
		"INSERT INTO twostep_outbox (topic, payload) VALUES ('a\\n', 'x')",
		"INSERT INTO twostep_outbox (topic, payload) VALUES ('a ', 'x')",
		"INSERT INTO twostep_outbox (topic, payload) VALUES (REPEAT('t', 129), 'x')",
		"INSERT INTO twostep_outbox (topic, payload) VALUES (REPEAT('t', 200), 'x')",
		"INSERT INTO twostep_outbox (topic, payload, headers) VALUES ('t', 'x', 'no json')",
		"INSERT INTO twostep_outbox (topic, payload, headers) VALUES ('t', 'x', '[1]')",
		"INSERT INTO twostep_outbox (topic, payload, gid) VALUES ('t', 'x', 'a b')",
		"INSERT INTO twostep_outbox (topic, payload, gid) VALUES ('t', 'x', REPEAT('g', 200))",
		"INSERT INTO twostep_outbox (topic, payload, `key`) VALUES ('t', 'x', REPEAT('k', 600))",
		"INSERT INTO twostep_outbox (topic, payload, id) VALUES ('t', 'x', UPPER(" + id + "))",
		"INSERT INTO twostep_outbox (topic, payload, id) VALUES ('t', 'x', CONCAT(" + id + ", 'a'))",
		"INSERT INTO twostep_outbox (topic, payload, id) VALUES ('t', 'x', CONCAT(LEFT(" + id + ", 35), '\\n'))",
		"INSERT INTO twostep_outbox_meta (one) VALUES (2)",
		"INSERT INTO twostep_outbox_meta (one) VALUES (1)",
		"UPDATE twostep_outbox_meta SET epoch = -1",
		"INSERT INTO twostep_outbox_confirmer (confirmer, bitmap) VALUES ('somebody', '')",
		"INSERT INTO twostep_outbox_confirmer (confirmer, bitmap) VALUES (" + id + ", '')",
		"INSERT INTO twostep_outbox_topic (name, delivery, no_subscribers, keyed, version) VALUES ('t', 'maybe', 'hold', 0, 1)",
		"INSERT INTO twostep_barrier (gid, branch_id, op, barrier_id, outcome) VALUES ('g', '01', 'action', '01', 'perhaps')",
		"INSERT INTO twostep_barrier (gid, branch_id, op, barrier_id, outcome) VALUES ('', '01', 'action', '01', 'success')",
		"INSERT INTO twostep_barrier (gid, branch_id, op, barrier_id, outcome) VALUES ('g', NULL, 'action', '01', 'success')",
		"INSERT INTO twostep_barrier (gid, branch_id, op, barrier_id, outcome) VALUES (REPEAT('g', 257), '01', 'action', '01', 'success')",
		"INSERT INTO twostep_parked (subscription, id, topic, state, reason, payload) VALUES ('s', 'i', 't', 'lost', '', 'x')",
		"INSERT INTO twostep_parked (subscription, id, topic, state, reason, payload, attempts) VALUES ('s', 'i', 't', 'dead', '', 'x', -1)",
		"INSERT INTO twostep_parked (subscription, id, topic, state, reason, payload, `key`) VALUES ('s', 'i', 't', 'held', '', 'x', 'k')",
		"INSERT INTO twostep_parked (subscription, id, topic, state, reason, payload, `key`, live_key) VALUES ('s', 'i', 't', 'dead', '', 'x', 'k', 'k')",
		"INSERT INTO twostep_registry (one) VALUES (1)",
		"INSERT INTO twostep_registry_topic (name, delivery, no_subscribers, keyed, version) VALUES ('a b', 'confirmed', 'hold', 0, 1)",
		"INSERT INTO twostep_registry_subscription (uid, topic, name, created_at) VALUES (" + id + ", 'no-such-topic', 'n', 1)",
	} {
		for mode, db := range map[string]*sql.DB{"strict": strict, "lax": lax} {
			if _, err := db.ExecContext(t.Context(), bad); err == nil {
				t.Errorf("%s: accepted: %s", mode, bad)
			}
		}
	}
}

// TestDefaultIDs: the default must make version 4 UUIDs, all different.
func TestDefaultIDs(t *testing.T) { onEachServer(t, testDefaultIDs) }

func testDefaultIDs(t *testing.T, on testServer) {
	db, _ := on.open(t)
	execAll(t, db, "INSERT INTO twostep_outbox (topic, payload) WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 900) SELECT 't', 'x' FROM n")
	const is = " FROM twostep_outbox WHERE CONVERT(id USING latin1) REGEXP '^.{8}-.{4}-4.{3}-[89ab].{3}-.{12}$'"
	if n := count(t, db, "SELECT COUNT(DISTINCT id)"+is); n != 900 {
		t.Errorf("%d distinct ids of 900", n)
	}
	if n := count(t, db, "SELECT COUNT(DISTINCT SUBSTRING(id, 20, 1))"+is); n != 4 {
		t.Errorf("%d variants", n)
	}
}

// TestMigrationFilesAreNumbered from 1, without a hole.
func TestMigrationFilesAreNumbered(t *testing.T) {
	t.Parallel()
	for _, set := range []mysql.Set{mysql.Service, mysql.Orchestrator} {
		list, err := mysql.MigrationsSQL(set, mysql.Config{})
		noError(t, err)
		files, err := os.ReadDir(filepath.Join("migrations", string(set)))
		noError(t, err)
		if len(files) != len(list) || len(list) == 0 {
			t.Errorf("%s: %d files, %d migrations", set, len(files), len(list))
		}
		for i, m := range list {
			if m.Version != int64(i+1) {
				t.Errorf("%s: migration %d has version %d", set, i+1, m.Version)
			}
		}
	}
}
