package postgres_test

import (
	"database/sql"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/stdlib"

	"github.com/twostep-mq/twostep/adapters/postgres"
	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/orchestrator/txn"
	"github.com/twostep-mq/twostep/topics"
)

// finding returns what an examination says about one thing.
func finding(t *testing.T, found []broker.Finding, check string) broker.Finding {
	t.Helper()
	for _, f := range found {
		if f.Check == check {
			return f
		}
	}
	t.Errorf("nothing about %q in %+v", check, found)
	return broker.Finding{}
}

// wantFinding checks a finding's level, and what its value, problem and fix say between them.
func wantFinding(t *testing.T, found []broker.Finding, check string, level broker.Level, says ...string) {
	t.Helper()
	f := finding(t, found, check)
	text := strings.Join([]string{f.Value, f.Problem, f.Fix}, " | ")
	if f.Level != level || level != broker.LevelOK && f.Fix == "" || strings.Contains(text, "\n") {
		t.Errorf("%s: level %s, want %s: %s", check, f.Level, level, text)
	}
	for _, want := range says {
		if !strings.Contains(text, want) {
			t.Errorf("%s: %q is missing in: %s", check, want, text)
		}
	}
}

// TestExamineInOrder: on a server as it should be nothing is wrong, and nothing is left out.
func TestExamineInOrder(t *testing.T) {
	db, cfg := open(t, extended)
	for set, checks := range map[postgres.Set][]string{
		postgres.Service: {
			"connection", "server version", "encoding", "writable", "durability", "clock", "pooler", "open transactions", "prepared transactions",
			"idle transactions", "schema version", "rights", "collation", "table files", "row numbers", "autovacuum",
		},
		postgres.Orchestrator: {
			"connection", "server version", "encoding", "writable", "durability", "clock", "pooler", "open transactions", "prepared transactions",
			"idle transactions", "schema version", "rights", "collation", "table files",
		},
	} {
		found := postgres.Examine(t.Context(), db, set, postgres.Config{})
		var names []string
		for _, f := range found {
			names = append(names, f.Check)
			if f.Level == broker.LevelError || f.Value == "" {
				t.Errorf("%s: %+v", set, f)
			}
		}
		if strings.Join(names, ", ") != strings.Join(checks, ", ") {
			t.Errorf("%s: %s", set, strings.Join(names, ", "))
		}
		wantFinding(t, found, "schema version", broker.LevelOK, string(set)+" 1")
		wantFinding(t, found, "connection", broker.LevelOK, cfg.RuntimeParams["search_path"])
	}
}

// TestExamineServer: each setting that hurts is found, on a server of the test's own, and its fix is a statement that mends it.
func TestExamineServer(t *testing.T) {
	s := newServer(t)
	ctx := t.Context()
	db := pool(t, s.config())
	for _, set := range sets() {
		noError(t, postgres.Migrate(ctx, db, set, postgres.Config{}))
	}
	for _, setting := range []string{
		"fsync = off", "full_page_writes = off", "autovacuum = off", "default_transaction_read_only = off", "idle_in_transaction_session_timeout = '5min'",
	} {
		noError(t, errOf(db.ExecContext(ctx, `ALTER SYSTEM SET `+setting)))
	}
	noError(t, errOf(db.ExecContext(ctx, `ALTER ROLE twostep SET synchronous_commit = off; ALTER DATABASE postgres SET default_transaction_read_only = on; SELECT pg_reload_conf()`)))
	var found []broker.Finding
	waitFor(t, func() bool { // a reload takes a moment
		db := stdlib.OpenDB(*s.config())
		defer func() { noError(t, db.Close()) }()
		found = postgres.Examine(ctx, db, postgres.Service, postgres.Config{})
		return finding(t, found, "autovacuum").Level != broker.LevelOK
	})
	wantFinding(t, found, "durability", broker.LevelError, "fsync = off, full_page_writes = off, synchronous_commit = off",
		"ALTER SYSTEM SET fsync = on; SELECT pg_reload_conf()", "ALTER SYSTEM SET full_page_writes = on", `ALTER ROLE "twostep" SET synchronous_commit = on`)
	wantFinding(t, found, "writable", broker.LevelError, `ALTER DATABASE "postgres" SET default_transaction_read_only = off`)
	wantFinding(t, found, "autovacuum", broker.LevelWarning, "ALTER SYSTEM SET autovacuum = on")
	wantFinding(t, found, "prepared transactions", broker.LevelNote, "ALTER SYSTEM SET max_prepared_transactions")
	wantFinding(t, found, "idle transactions", broker.LevelOK, "300000 ms")
	for _, check := range []string{"durability", "writable", "autovacuum"} {
		for _, statement := range strings.Split(finding(t, found, check).Fix, "; ") {
			noError(t, errOf(db.ExecContext(ctx, statement)))
		}
	}
	waitFor(t, func() bool {
		db := stdlib.OpenDB(*s.config())
		defer func() { noError(t, db.Close()) }()
		found = postgres.Examine(ctx, db, postgres.Service, postgres.Config{})
		return finding(t, found, "autovacuum").Level == broker.LevelOK
	})
	wantFinding(t, found, "durability", broker.LevelOK)
	wantFinding(t, found, "writable", broker.LevelOK)

	weak := s.config()
	weak.RuntimeParams["synchronous_commit"] = "off"
	weakDB := pool(t, weak)
	found = postgres.Examine(ctx, weakDB, postgres.Service, postgres.Config{AllowUnsafeDurability: true})
	wantFinding(t, found, "durability", broker.LevelWarning, "take synchronous_commit out of the DSN", "allow_unsafe_durability")

	s.kill()
	found = postgres.Examine(ctx, db, postgres.Service, postgres.Config{})
	if len(found) != 1 {
		t.Errorf("%+v", found)
	}
	wantFinding(t, found, "connection", broker.LevelError, "see that it runs")
}

// TestExamineTables: what was done to the tables is found, and mended by the statement that is given.
func TestExamineTables(t *testing.T) {
	ctx := t.Context()
	for name, c := range map[string]struct {
		spoil, check string
		level        broker.Level
		says         string
		mend         string // empty: the fix as it is given
	}{
		"sequence cache":     {`ALTER SEQUENCE twostep_outbox_seq CACHE 32`, "row numbers", broker.LevelError, "cache 32", ""},
		"sequence increment": {`ALTER SEQUENCE twostep_outbox_seq INCREMENT 2`, "row numbers", broker.LevelError, "increment 2", ""},
		"bare nextval":       {`ALTER TABLE twostep_outbox ALTER seq SET DEFAULT nextval('twostep_outbox_seq')`, "row numbers", broker.LevelError, "before its transaction has an id", ""},
		"sequence behind":    {`INSERT INTO twostep_outbox (seq, topic, payload) VALUES (7, 't', 'x')`, "row numbers", broker.LevelError, "row 7", ""},
		"autovacuum":         {`ALTER TABLE twostep_outbox SET (autovacuum_enabled = off)`, "autovacuum", broker.LevelWarning, "off for", ""},
		"unlogged":           {`ALTER TABLE twostep_barrier SET UNLOGGED`, "table files", broker.LevelError, "after a crash", ""},
		"collation": {
			`ALTER TABLE twostep_barrier ALTER gid TYPE text COLLATE "en-US-x-icu"`, "collation", broker.LevelError, `twostep_barrier.gid "en-US-x-icu"`,
			`ALTER TABLE twostep_barrier ALTER gid TYPE text COLLATE "C"`,
		},
		"migration": {
			`DELETE FROM twostep_migration_service WHERE version_id = 1`, "schema version", broker.LevelError, "twostep migrate --driver postgres --for service",
			`INSERT INTO twostep_migration_service (version_id, is_applied) VALUES (1, true)`,
		},
		"newer": {
			`INSERT INTO twostep_migration_service (version_id, is_applied) VALUES (99, true)`, "schema version", broker.LevelNote, "newer version",
			`DELETE FROM twostep_migration_service WHERE version_id = 99`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, _ := open(t, extended)
			examine := func() broker.Finding {
				return finding(t, postgres.Examine(ctx, db, postgres.Service, postgres.Config{}), c.check)
			}
			if f := examine(); f.Level != broker.LevelOK {
				t.Errorf("before: %+v", f)
			}
			noError(t, errOf(db.ExecContext(ctx, c.spoil)))
			f := examine()
			if text := f.Value + f.Problem + f.Fix; f.Level != c.level || !strings.Contains(text, c.says) {
				t.Errorf("%+v, want %s and %q", f, c.level, c.says)
			}
			mend := f.Fix
			if c.mend != "" {
				mend = c.mend
			}
			noError(t, errOf(db.ExecContext(ctx, mend)))
			if f := examine(); f.Level != broker.LevelOK {
				t.Errorf("after %s: %+v", mend, f)
			}
		})
	}
}

// newRole makes a role of the test's own, which may look into the schema and nothing else.
func newRole(t *testing.T, db *sql.DB, schema string) string {
	t.Helper()
	role := fmt.Sprintf("test_role_%08x", rand.Uint32())
	noError(t, errOf(db.ExecContext(t.Context(), `CREATE ROLE `+role+` LOGIN PASSWORD 'x'; GRANT USAGE ON SCHEMA `+schema+` TO `+role)))
	t.Cleanup(func() {
		noError(t, errOf(db.Exec(`DROP OWNED BY `+role+`; DROP ROLE `+role)))
	})
	return role
}

// TestExamineRights: each missing right is named with the statement that gives it, from the schema down, until an outbox can be used.
func TestExamineRights(t *testing.T) {
	ctx := t.Context()
	db, cfg := open(t, extended)
	role := newRole(t, db, cfg.RuntimeParams["search_path"])
	as := cfg.Copy()
	as.User, as.Password = role, "x"
	own := pool(t, as)
	noError(t, errOf(db.ExecContext(ctx, `REVOKE USAGE ON SCHEMA `+cfg.RuntimeParams["search_path"]+` FROM `+role)))
	in := postgres.Config{Schema: cfg.RuntimeParams["search_path"]}
	for _, step := range []struct{ check, says string }{
		{"schema", "GRANT USAGE ON SCHEMA"},
		{"schema version", "GRANT SELECT ON"},
		{"rights", "GRANT SELECT, INSERT, UPDATE, DELETE ON"},
	} {
		f := finding(t, postgres.Examine(ctx, own, postgres.Service, in), step.check)
		if f.Level != broker.LevelError || !strings.Contains(f.Fix, step.says) {
			t.Fatalf("%s: %+v", step.check, f)
		}
		for _, statement := range strings.Split(f.Fix, "; ") {
			noError(t, errOf(db.ExecContext(ctx, statement)))
		}
	}
	found := postgres.Examine(ctx, own, postgres.Service, in)
	wantFinding(t, found, "rights", broker.LevelOK)
	wantFinding(t, found, "open transactions", finding(t, found, "open transactions").Level)
	box, err := postgres.NewOutbox(ctx, own, in)
	noError(t, err)
	r := newReader(t, box)
	both := &outboxDB{own, box}
	noError(t, errOf(both.insert(ctx, 1)))
	r.until(func() bool { return len(r.seen) == 1 })
	c, err := postgres.NewConsumer(ctx, own, in)
	noError(t, err)
	tx, err := c.Begin(ctx)
	noError(t, err)
	noError(t, errOf(tx.Claim(ctx, uid, []string{"m"}, txn.Success)))
	noError(t, tx.Park(ctx, []topics.Parked{{Subscription: uid, State: topics.ParkedDead, ParkedAt: time.Now(), Message: *message("t")}}))
	noError(t, tx.Commit(ctx))
}

// TestExamineOpenTransactions: an old transaction, and a forgotten prepared one, are named, with what ends them.
func TestExamineOpenTransactions(t *testing.T) {
	ctx := t.Context()
	s := newServer(t)
	cfg := s.config()
	cfg.RuntimeParams["application_name"] = "the sleeper"
	db := pool(t, cfg)
	tx, err := db.BeginTx(ctx, nil)
	noError(t, err)
	defer func() { _ = tx.Rollback() }()
	noError(t, errOf(tx.ExecContext(ctx, `SELECT pg_current_xact_id()`)))
	found := postgres.Examine(ctx, db, postgres.Service, postgres.Config{})
	wantFinding(t, found, "open transactions", broker.LevelOK, "1, the oldest for", `application_name "the sleeper", idle in transaction`)
	old := postgres.ExamineOld(ctx, db, postgres.Service, postgres.Config{}, time.Microsecond)
	wantFinding(t, old, "open transactions", broker.LevelWarning, "the sleeper", "holds gaps")
	_, terminate, _ := strings.Cut(finding(t, old, "open transactions").Fix, "begun, or ")
	noError(t, errOf(db.ExecContext(ctx, terminate)))
	waitFor(t, func() bool {
		return finding(t, postgres.Examine(ctx, db, postgres.Service, postgres.Config{}), "open transactions").Value == "none"
	})
	wantFinding(t, found, "schema version", broker.LevelError, "missing: 00001", "twostep migrate")
}

// TestExamineWithoutDatabase: wrong DSNs are one finding each.
func TestExamineWithoutDatabase(t *testing.T) {
	ctx := t.Context()
	cfg := config(t, "")
	nobody, wrongDatabase := cfg.Copy(), cfg.Copy()
	nobody.Port, wrongDatabase.Database = 1, "nosuchdatabase"
	for says, c := range map[string]*sql.DB{
		"see that it runs": pool(t, nobody), "CREATE DATABASE": pool(t, wrongDatabase),
	} {
		found := postgres.Examine(ctx, c, postgres.Service, postgres.Config{})
		if len(found) != 1 {
			t.Errorf("%+v", found)
		}
		wantFinding(t, found, "connection", broker.LevelError, says)
	}
	wantFinding(t, postgres.Examine(ctx, nil, postgres.Service, postgres.Config{}), "configuration", broker.LevelError, "nil")
	wantFinding(t, postgres.Examine(ctx, pool(t, cfg), "other", postgres.Config{}), "configuration", broker.LevelError, `"service"`)
}

// TestExamineBehindPgBouncer: a pooler is noticed.
func TestExamineBehindPgBouncer(t *testing.T) {
	port := startBouncer(t)
	cfg := config(t, "")
	cfg.Host, cfg.Port, cfg.Password = "127.0.0.1", port, ""
	cfg.DefaultQueryExecMode = simple
	found := postgres.Examine(t.Context(), pool(t, cfg), postgres.Service, postgres.Config{})
	wantFinding(t, found, "pooler", broker.LevelNote, "direct connection")
}
