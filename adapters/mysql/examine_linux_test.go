package mysql_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/adapters/mysql"
	"github.com/twostep-mq/twostep/broker"
)

// wantFinding checks a finding's level, and what its value, problem and fix say between them.
func wantFinding(t *testing.T, found []broker.Finding, check string, level broker.Level, says ...string) {
	t.Helper()
	i := slices.IndexFunc(found, func(f broker.Finding) bool { return f.Check == check })
	if i < 0 {
		t.Errorf("nothing about %q in %+v", check, found)
		return
	}
	f := found[i]
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
func TestExamineInOrder(t *testing.T) { onEachServer(t, testExamineInOrder) }

func testExamineInOrder(t *testing.T, on testServer) {
	db, _ := on.open(t)
	checks := []string{
		"connection", "server version", "writable", "durability", "binary log", "packet size", "storage engine", "SQL mode", "lock waits",
		"row numbers", "cluster", "clock", "open transactions", "prepared transactions", "schema version", "rights", "table files", "collation",
	}
	for _, set := range []mysql.Set{mysql.Service, mysql.Orchestrator} {
		found := mysql.ExamineOld(t.Context(), db, set, mysql.Config{}, time.Hour) // other tests have old transactions
		var names []string
		for _, f := range found {
			names = append(names, f.Check)
			if f.Level != broker.LevelOK || f.Value == "" || f.Problem != "" || f.Fix != "" {
				t.Errorf("%s: %+v", set, f)
			}
		}
		want := checks
		if set == mysql.Orchestrator {
			want = slices.DeleteFunc(slices.Clone(checks), func(s string) bool { return s == "row numbers" || s == "cluster" })
		}
		if !slices.Equal(names, want) {
			t.Errorf("%s: looked at %q, want %q", set, names, want)
		}
	}
}

// TestExamineFinds what is wrong, each on a real server with the setting in question, and the statement that changes it.
func TestExamineFinds(t *testing.T) { onEachServer(t, testExamineFinds) }

func testExamineFinds(t *testing.T, on testServer) {
	s := on.startOwn(t)
	examine := func() []broker.Finding {
		fresh, err := mysql.Open(s.dsn.FormatDSN()) // a connection keeps the settings that it began with
		noError(t, err)
		defer func() { _ = fresh.Close() }()
		return mysql.ExamineOld(t.Context(), fresh, mysql.Service, mysql.Config{}, 0)
	}
	db := openDSN(t, s.dsn.FormatDSN())
	wantFinding(t, examine(), "schema version", broker.LevelError, "00001", "twostep migrate --driver mysql --for service")
	migrate(t, db, mysql.Config{})

	for _, c := range []struct{ check, set, back, says, fix string }{
		{"durability", "innodb_flush_log_at_trx_commit = 2", "innodb_flush_log_at_trx_commit = 1", "is 2", "SET GLOBAL innodb_flush_log_at_trx_commit = 1"},
		{"row numbers", "auto_increment_increment = 2", "auto_increment_increment = 1", "leaves numbers out", "SET GLOBAL auto_increment_increment = 1"},
		{"packet size", "max_allowed_packet = 1048576", "max_allowed_packet = 16777216", "1048576", "SET GLOBAL max_allowed_packet = 16777216"},
		{"writable", "read_only = ON", "read_only = OFF", "nothing can be written", "SET GLOBAL read_only = OFF"},
	} {
		execAll(t, db, "SET GLOBAL "+c.set)
		wantFinding(t, examine(), c.check, broker.LevelError, c.says, c.fix)
		execAll(t, db, "SET GLOBAL "+c.back)
		wantFinding(t, examine(), c.check, broker.LevelOK)
	}
	for _, c := range []struct{ check, set, says string }{
		{"storage engine", "default_storage_engine = MEMORY", "MEMORY"},
		{"SQL mode", "sql_mode = ''", "STRICT_TRANS_TABLES"},
		{"lock waits", "innodb_lock_wait_timeout = 600", "600"},
	} {
		execAll(t, db, "SET GLOBAL "+c.set)
		wantFinding(t, examine(), c.check, broker.LevelWarning, c.says, "SET GLOBAL")
	}
	execAll(t, db, "SET GLOBAL innodb_flush_log_at_trx_commit = 0")
	allowed := mysql.Examine(t.Context(), openDSN(t, s.dsn.FormatDSN()), mysql.Service, mysql.Config{AllowUnsafeDurability: true})
	wantFinding(t, allowed, "durability", broker.LevelWarning, "is 0")

	examineTables(t, s, examine)
	examineTransactions(t, s, examine)
	s.kill()
	wantFinding(t, examine(), "connection", broker.LevelError, "refused")
}

func examineTables(t *testing.T, s *ownServer, examine func() []broker.Finding) {
	t.Helper()
	db := openDSN(t, s.dsn.FormatDSN())
	execAll(t, db, "SET GLOBAL default_storage_engine = InnoDB",
		"CREATE USER poor@'127.0.0.1' IDENTIFIED BY 'secret'", "GRANT SELECT ON twostep.* TO poor@'127.0.0.1'",
		"GRANT INSERT, UPDATE, DELETE ON twostep.twostep_barrier TO poor@'127.0.0.1'")
	dsn := s.dsn.Clone()
	dsn.User = "poor"
	poor := mysql.Examine(t.Context(), openDSN(t, dsn.FormatDSN()), mysql.Service, mysql.Config{})
	wantFinding(t, poor, "rights", broker.LevelError, "INSERT, UPDATE, DELETE on twostep_outbox",
		"GRANT INSERT, UPDATE, DELETE ON `twostep`.`twostep_outbox` TO 'poor'@'127.0.0.1'")
	wantFinding(t, poor, "open transactions", broker.LevelNote, "GRANT PROCESS ON *.* TO 'poor'@'127.0.0.1'")
	for _, f := range poor {
		if f.Check == "rights" && strings.Contains(f.Value, "barrier") {
			t.Errorf("a right that is there is missed: %s", f.Value)
		}
	}
	execAll(t, db, "ALTER TABLE twostep_outbox_topic ENGINE = MyISAM")
	wantFinding(t, examine(), "table files", broker.LevelError, "twostep_outbox_topic (MyISAM)", "ENGINE = InnoDB")
	execAll(t, db, "ALTER TABLE twostep_outbox_topic ENGINE = InnoDB", "ALTER TABLE twostep_barrier MODIFY gid VARCHAR(257) COLLATE utf8mb4_general_ci NOT NULL")
	wantFinding(t, examine(), "collation", broker.LevelError, "twostep_barrier.gid (utf8mb4_general_ci)", "VARBINARY")
}

func examineTransactions(t *testing.T, s *ownServer, examine func() []broker.Finding) {
	t.Helper()
	db := openDSN(t, s.dsn.FormatDSN())
	execAll(t, db, "CREATE TABLE n (id INT PRIMARY KEY) ENGINE = InnoDB")
	tx, err := db.BeginTx(t.Context(), nil)
	noError(t, err)
	defer func() { _ = tx.Rollback() }()
	_, err = tx.ExecContext(t.Context(), "INSERT INTO n VALUES (1)")
	noError(t, err)
	var thread int
	noError(t, tx.QueryRowContext(t.Context(), "SELECT CONNECTION_ID()").Scan(&thread))
	for until := time.Now().Add(10 * time.Second); ; {
		found := examine()
		i := slices.IndexFunc(found, func(f broker.Finding) bool { return f.Check == "open transactions" && f.Level == broker.LevelWarning })
		if i >= 0 || time.Now().After(until) {
			wantFinding(t, found, "open transactions", broker.LevelWarning, "1 rows written", fmt.Sprint("KILL ", thread))
			break
		}
		// InnoDB looks again when nobody has asked for a tenth of a second.
		pause(t.Context(), 300*time.Millisecond)
	}
	noError(t, tx.Rollback())

	conn, err := db.Conn(t.Context())
	noError(t, err)
	defer func() { _ = conn.Close() }()
	for _, statement := range []string{"XA START 'x'", "INSERT INTO n VALUES (2)", "XA END 'x'", "XA PREPARE 'x'"} {
		_, err := conn.ExecContext(t.Context(), statement)
		noError(t, err)
	}
	wantFinding(t, examine(), "prepared transactions", broker.LevelWarning, "1 XA branches", "XA COMMIT")
}
