package mysql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// server is a database on a server that was asked what it is.
type server struct {
	db      *sql.DB
	cfg     Config
	mariadb bool
	// sessions is the pool of managed transactions.
	sessions *sql.DB
}

// Versions below these lack CHECK constraints, JSON_TABLE, NOWAIT or row numbers that survive a restart.
const (
	oldestMySQL   = 8_00_19
	oldestMariaDB = 10_06_00
	// leastPacket is the room a message of the largest size takes as a statement, and then some.
	leastPacket = 4 << 20
)

// connect asks the server what it is, and refuses one without the tables of a set, too old, or unsafe.
func connect(ctx context.Context, db *sql.DB, cfg Config, set Set) (*server, error) {
	if db == nil {
		return nil, errors.New("mysql: no database given (nil)")
	}
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	vars, err := variables(ctx, db)
	if err != nil {
		return nil, explain("ask the server what it is", err)
	}
	if err := vars.checkVersion(); err != nil {
		return nil, err
	}
	if err := vars.checkDurability(cfg.AllowUnsafeDurability); err != nil {
		return nil, err
	}
	if err := checkTables(ctx, db, cfg, set); err != nil {
		return nil, err
	}
	return &server{db: db, cfg: cfg, mariadb: vars.mariadb(), sessions: newSessions(db, vars.mariadb())}, nil
}

// settings are variables of the server by name, as far as it has them.
type settings map[string]string

const askVariables = `SHOW VARIABLES WHERE Variable_name IN ('version', 'version_comment', 'innodb_flush_log_at_trx_commit', 'innodb_doublewrite',
  'innodb_flush_method', 'log_bin', 'binlog_format', 'sync_binlog', 'max_allowed_packet', 'auto_increment_increment', 'auto_increment_offset', 'wsrep_on',
  'group_replication_single_primary_mode', 'read_only', 'super_read_only', 'innodb_read_only', 'default_storage_engine', 'sql_mode',
  'innodb_lock_wait_timeout', 'innodb_rollback_on_timeout', 'innodb_snapshot_isolation')`

func variables(ctx context.Context, db querier) (vars settings, err error) {
	rows, err := db.QueryContext(ctx, askVariables)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	vars = settings{}
	for rows.Next() {
		var name, value string
		if err := rows.Scan(&name, &value); err != nil {
			return nil, err
		}
		vars[strings.ToLower(name)] = value
	}
	return vars, rows.Err()
}

func (v settings) mariadb() bool {
	return strings.Contains(strings.ToLower(v["version"]+v["version_comment"]), "mariadb")
}

// number is the version as 10_11_19.
func (v settings) number() int {
	// Old replication compatibility: "5.5.5-10.11.19-MariaDB".
	text := strings.TrimPrefix(v["version"], "5.5.5-")
	number := 0
	for i, part := range strings.SplitN(text, ".", 3) {
		if i == 2 {
			end := strings.IndexFunc(part, func(r rune) bool { return r < '0' || r > '9' })
			if end >= 0 {
				part = part[:end]
			}
		}
		n, err := strconv.Atoi(part)
		if err != nil {
			return 0
		}
		number = number*100 + n
	}
	return number
}

// flaw is something about a server that does not fit, and what changes it.
type flaw struct{ problem, fix string }

// checkVersion refuses servers that cannot do what is asked of them.
func (v settings) checkVersion() error {
	for _, flaws := range [][]flaw{v.old(), v.smallPackets(), v.statementLog()} {
		for _, f := range flaws {
			return fmt.Errorf("%w: %s: %s", ErrUnsupported, f.problem, f.fix)
		}
	}
	return nil
}

func (v settings) old() []flaw {
	oldest, want := oldestMySQL, "MySQL 8.0.19"
	if v.mariadb() {
		oldest, want = oldestMariaDB, "MariaDB 10.6"
	}
	if v.number() >= oldest {
		return nil
	}
	return []flaw{{fmt.Sprintf("it is %s %s, and %s is the oldest that can", v["version_comment"], v["version"], want), "update it"}}
}

func (v settings) smallPackets() []flaw {
	packet, err := strconv.ParseInt(v["max_allowed_packet"], 10, 64)
	if err != nil || packet >= leastPacket {
		return nil
	}
	return []flaw{{
		fmt.Sprintf("max_allowed_packet is %d, too little for large messages", packet),
		fmt.Sprintf("SET GLOBAL max_allowed_packet = %d, and in its configuration", 4*leastPacket),
	}}
}

func (v settings) statementLog() []flaw {
	if !on(v["log_bin"]) || !strings.EqualFold(v["binlog_format"], "STATEMENT") {
		return nil
	}
	return []flaw{{
		"binlog_format is STATEMENT, with which it refuses writes under READ COMMITTED",
		"SET GLOBAL binlog_format = 'ROW' (or 'MIXED'), and in its configuration, then reconnect",
	}}
}

// checkDurability refuses servers that may lose what they acknowledged.
func (v settings) checkDurability(allowUnsafe bool) error {
	for _, f := range v.unsafe() {
		if !allowUnsafe {
			return fmt.Errorf("%w: %s: %s; or say allow_unsafe_durability (mysql.Config.AllowUnsafeDurability), and lose messages when the machine fails",
				ErrUnsafe, f.problem, f.fix)
		}
	}
	return nil
}

func (v settings) unsafe() (flaws []flaw) {
	if log := v["innodb_flush_log_at_trx_commit"]; log != "1" {
		flaws = append(flaws, flaw{
			"innodb_flush_log_at_trx_commit is " + log,
			"SET GLOBAL innodb_flush_log_at_trx_commit = 1, and in its configuration",
		})
	}
	if on(v["log_bin"]) && v["sync_binlog"] != "1" {
		flaws = append(flaws, flaw{
			"the binary log is on and sync_binlog is " + v["sync_binlog"] + ", so that recovery takes back what the log has lost",
			"SET GLOBAL sync_binlog = 1, and in its configuration",
		})
	}
	if off(v["innodb_doublewrite"]) {
		flaws = append(flaws, flaw{
			"innodb_doublewrite is off, so that a page may be written by half",
			"innodb_doublewrite = ON in its configuration, then restart it",
		})
	}
	if strings.EqualFold(v["innodb_flush_method"], "nosync") {
		flaws = append(flaws, flaw{
			"innodb_flush_method is nosync, so that nothing is flushed to the disk",
			"take innodb_flush_method out of its configuration, then restart it",
		})
	}
	return flaws
}

// checkNumbers refuses servers on which a relay cannot tell whether a missing row number will still come.
func (v settings) checkNumbers() error {
	for _, flaws := range [][]flaw{v.severalPrimaries(), v.stepNumbers()} {
		for _, f := range flaws {
			return fmt.Errorf("%w: %s: %s", ErrUnsupported, f.problem, f.fix)
		}
	}
	return nil
}

func (v settings) severalPrimaries() []flaw {
	switch {
	case on(v["wsrep_on"]):
		return []flaw{{
			"it is a node of a Galera cluster, whose nodes do not see each other's locks; a relay there would take an open transaction's row for one that never comes",
			"keep the outbox on a single primary",
		}}
	case off(v["group_replication_single_primary_mode"]):
		return []flaw{{
			"group replication runs with several primaries, which do not see each other's locks",
			"switch to single-primary mode: SELECT group_replication_switch_to_single_primary_mode()",
		}}
	}
	return nil
}

func (v settings) stepNumbers() []flaw {
	if v["auto_increment_increment"] == "1" {
		return nil
	}
	return []flaw{{
		"auto_increment_increment is " + v["auto_increment_increment"] + ", so that each row leaves numbers out which a relay has to wait for",
		"SET GLOBAL auto_increment_increment = 1, GLOBAL auto_increment_offset = 1, and in its configuration, then reconnect",
	}}
}

func on(value string) bool  { return strings.EqualFold(value, "ON") || value == "1" }
func off(value string) bool { return strings.EqualFold(value, "OFF") || value == "0" }

// forShareOf is the clause that locks the rows of one table of a join with JSON_TABLE for reading. MySQL refuses it without the table's
// name (error 3569); MariaDB locks the rows of real tables alone, and has no OF.
func (s *server) forShareOf(table string) string {
	if s.mariadb {
		return " LOCK IN SHARE MODE"
	}
	return " FOR SHARE OF " + table
}

// forUpdateOf is forShareOf for writing.
func (s *server) forUpdateOf(table string) string {
	if s.mariadb {
		return " FOR UPDATE"
	}
	return " FOR UPDATE OF " + table
}
