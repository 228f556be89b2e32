package mysql_test

import (
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/twostep-mq/twostep/adapters/mysql"
)

// TestCheckServer judges servers by what they say, also those that are not at hand.
func TestCheckServer(t *testing.T) {
	t.Parallel()
	mariadb := map[string]string{
		"version": "10.11.19-MariaDB-0+deb12u1", "version_comment": "Debian 12", "innodb_flush_log_at_trx_commit": "1", "innodb_doublewrite": "ON",
		"log_bin": "OFF", "sync_binlog": "0", "max_allowed_packet": "16777216", "auto_increment_increment": "1", "wsrep_on": "OFF",
	}
	mysql8 := map[string]string{
		"version": "8.0.36", "version_comment": "MySQL Community Server - GPL", "innodb_flush_log_at_trx_commit": "1", "innodb_doublewrite": "ON",
		"log_bin": "ON", "sync_binlog": "1", "max_allowed_packet": "67108864", "auto_increment_increment": "1",
	}
	for _, c := range []struct {
		name  string
		of    map[string]string
		set   map[string]string
		is    error
		words string
	}{
		{"MariaDB", mariadb, nil, nil, ""},
		{"MySQL", mysql8, nil, nil, ""},
		{"MySQL 9", mysql8, map[string]string{"version": "9.1.0-cloud"}, nil, ""},
		{"MariaDB 11.8", mariadb, map[string]string{"version": "11.8.2-MariaDB-log", "innodb_doublewrite": "fast"}, nil, ""},
		{"MariaDB as replicas see it", mariadb, map[string]string{"version": "5.5.5-10.6.4-MariaDB"}, nil, ""},
		{"old MariaDB", mariadb, map[string]string{"version": "10.5.23-MariaDB"}, mysql.ErrUnsupported, "MariaDB 10.6"},
		{"old MySQL", mysql8, map[string]string{"version": "8.0.18"}, mysql.ErrUnsupported, "MySQL 8.0.19"},
		{"MySQL 5.7", mysql8, map[string]string{"version": "5.7.44-log"}, mysql.ErrUnsupported, "5.7.44"},
		{"no version", mysql8, map[string]string{"version": "unknown"}, mysql.ErrUnsupported, "unknown"},
		{"small packets", mysql8, map[string]string{"max_allowed_packet": "1048576"}, mysql.ErrUnsupported, "max_allowed_packet"},
		{"log flushed each second", mariadb, map[string]string{"innodb_flush_log_at_trx_commit": "0"}, mysql.ErrUnsafe, "innodb_flush_log_at_trx_commit = 1"},
		{"binary log not flushed", mysql8, map[string]string{"sync_binlog": "100"}, mysql.ErrUnsafe, "sync_binlog = 1"},
		{"no doublewrite", mysql8, map[string]string{"innodb_doublewrite": "OFF"}, mysql.ErrUnsafe, "innodb_doublewrite"},
		{"statements in the binary log", mariadb, map[string]string{"log_bin": "ON", "sync_binlog": "1", "binlog_format": "STATEMENT"}, mysql.ErrUnsupported, "binlog_format = 'ROW'"},
		{"statements in no binary log", mariadb, map[string]string{"binlog_format": "STATEMENT"}, nil, ""},
		{"increment", mysql8, map[string]string{"auto_increment_increment": "7"}, mysql.ErrUnsupported, "auto_increment_increment = 1"},
		{"Galera", mariadb, map[string]string{"wsrep_on": "ON"}, mysql.ErrUnsupported, "Galera"},
		{"several primaries", mysql8, map[string]string{"group_replication_single_primary_mode": "OFF"}, mysql.ErrUnsupported, "single-primary"},
		{"one primary", mysql8, map[string]string{"group_replication_single_primary_mode": "ON"}, nil, ""},
	} {
		vars := maps.Clone(c.of)
		maps.Copy(vars, c.set)
		err := mysql.CheckServer(vars, false)
		if !errors.Is(err, c.is) || c.is == nil && err != nil {
			t.Errorf("%s: %v, want %v", c.name, err, c.is)
			continue
		}
		if err != nil && !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: %q does not say %q", c.name, err, c.words)
		}
		if allowed := mysql.CheckServer(vars, true); errors.Is(c.is, mysql.ErrUnsafe) && allowed != nil {
			t.Errorf("%s, allowed: %v", c.name, allowed)
		}
	}
}

func TestPrefix(t *testing.T) {
	t.Parallel()
	for prefix, good := range map[string]bool{
		"": true, "a": true, "_": true, "Bank_2_": true, strings.Repeat("x", 35): true,
		strings.Repeat("x", 36): false, strings.Repeat("x", 63): false, "2": false, "a-b": false, "a`b": false, "a b": false, "ä": false, "a\n": false, "a;": false,
	} {
		_, err := mysql.MigrationsSQL(mysql.Service, mysql.Config{Prefix: prefix})
		if good != (err == nil) {
			t.Errorf("%q: %v", prefix, err)
		}
	}
}

// TestTwoPrefixes keeps two outboxes in one database.
func TestTwoPrefixes(t *testing.T) { onEachServer(t, testTwoPrefixes) }

func testTwoPrefixes(t *testing.T, on testServer) {
	db, _ := on.open(t)
	long := mysql.Config{Prefix: strings.Repeat("x", 34) + "_"}
	if _, err := mysql.NewOutbox(t.Context(), db, long); !errors.Is(err, mysql.ErrNoTables) {
		t.Errorf("%v, want ErrNoTables", err)
	}
	migrate(t, db, long)
	other, err := mysql.NewOutbox(t.Context(), db, long)
	noError(t, err)
	_, err = mysql.NewConsumer(t.Context(), db, long)
	noError(t, err)
	_, err = mysql.NewRegistry(t.Context(), db, long)
	noError(t, err)
	noError(t, insert(t, db, other, 3).Commit())
	for o, want := range map[*mysql.Outbox]int{other: 3, newOutbox(t, db): 0} {
		p, err := o.Scan(t.Context(), 0, 10, true)
		noError(t, err)
		if len(p.Rows) != want {
			t.Errorf("%d rows, want %d", len(p.Rows), want)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	for _, dsn := range []string{"", "nonsense", "u:secret@tcp(127.0.0.1:1)/", "u:secret@tcp(127.0.0.1:1"} {
		_, err := mysql.Open(dsn)
		if err == nil || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "user:password@tcp(host:port)/database") {
			t.Errorf("%q: %v", dsn, err)
		}
	}
}

// TestPlans: no statement of the message's path reads more than it asks for, and above all locks no more.
func TestPlans(t *testing.T) { onEachServer(t, testPlans) }

func testPlans(t *testing.T, on testServer) {
	db, _ := on.open(t)
	o := newOutbox(t, db)
	noError(t, insert(t, db, o, 300).Commit())
	many := func(insert string, from, to int64) {
		var numbers []string
		for n := from; n <= to; n++ {
			numbers = append(numbers, fmt.Sprint(n))
		}
		_, err := db.ExecContext(t.Context(), insert+" FROM JSON_TABLE(?, '$[*]' COLUMNS (seq BIGINT PATH '$')) n", "["+strings.Join(numbers, ",")+"]")
		noError(t, err)
	}
	many("INSERT INTO twostep_parked (subscription, id, topic, `key`, live_key, state, reason, payload) "+
		"SELECT 's', seq, 't', CONCAT('k', seq MOD 20), CONCAT('k', seq MOD 20), 'held', '', ''", 1, 2000)
	many("INSERT INTO twostep_parked (subscription, id, topic, state, reason, payload, next_at) SELECT 's', seq, 't', 'waiting', '', '', seq", 2001, 4000)
	many("INSERT INTO twostep_barrier (gid, branch_id, op, barrier_id, outcome) SELECT seq, 's', 'action', '01', 'success'", 1, 2000)
	execAll(t, db, "ANALYZE TABLE twostep_parked, twostep_barrier, twostep_outbox")
	for name, statement := range mysql.Plans(on == mariaDB) {
		plan := explainPlan(t, on, db, statement)
		for _, step := range plan {
			if step.readsAll() {
				t.Errorf("%s reads all of %s", name, step.table)
			}
		}
		all := fmt.Sprintf("%+v", plan)
		if (strings.HasPrefix(name, "due") || strings.HasPrefix(name, "next")) && !strings.Contains(all, "Using index for group-by") {
			t.Errorf("%s reads all messages of a key", name)
		}
		t.Logf("%s: %s", name, all)
	}
}

// planStep is a line of EXPLAIN.
type planStep struct{ table, access, key, extra string }

// readsAll: all of a table of ours, that is; not of what the statement makes itself, which has a name in <>.
func (p planStep) readsAll() bool {
	own := strings.HasPrefix(p.table, "<") || strings.Contains(p.extra, "json_table")
	return !own && (p.access == "ALL" || p.access == "index")
}

func explainPlan(t *testing.T, on testServer, db *sql.DB, statement mysql.Statement) (plan []planStep) {
	t.Helper()
	explain := "EXPLAIN "
	if on == mySQL {
		explain = "EXPLAIN FORMAT = TRADITIONAL " // MySQL 9 draws a tree otherwise
	}
	rows, err := db.QueryContext(t.Context(), explain+statement.Query, statement.Args...)
	noError(t, err)
	defer func() { _ = rows.Close() }()
	names, err := rows.Columns()
	noError(t, err)
	for rows.Next() {
		values := make([]sql.NullString, len(names))
		into := make([]any, len(names))
		for i := range values {
			into[i] = &values[i]
		}
		noError(t, rows.Scan(into...))
		column := func(name string) string { return values[slices.Index(names, name)].String }
		plan = append(plan, planStep{column("table"), column("type"), column("key"), column("Extra")})
	}
	noError(t, rows.Err())
	return plan
}
