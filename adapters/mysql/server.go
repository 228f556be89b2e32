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
	return &server{db: db, cfg: cfg, mariadb: vars.mariadb()}, nil
}

// settings are variables of the server by name, as far as it has them.
type settings map[string]string

const askVariables = `SHOW VARIABLES WHERE Variable_name IN ('version', 'version_comment', 'innodb_flush_log_at_trx_commit', 'innodb_doublewrite',
  'log_bin', 'binlog_format', 'sync_binlog', 'max_allowed_packet', 'auto_increment_increment', 'wsrep_on', 'group_replication_single_primary_mode')`

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

func (v settings) checkVersion() error {
	oldest, want := oldestMySQL, "MySQL 8.0.19"
	if v.mariadb() {
		oldest, want = oldestMariaDB, "MariaDB 10.6"
	}
	if v.number() < oldest {
		return fmt.Errorf("%w: it is %s %s, and %s is the oldest that can: update it", ErrUnsupported, v["version_comment"], v["version"], want)
	}
	if packet, err := strconv.ParseInt(v["max_allowed_packet"], 10, 64); err == nil && packet < leastPacket {
		return fmt.Errorf("%w: max_allowed_packet is %d, too little for large messages: SET GLOBAL max_allowed_packet = %d, and in its configuration",
			ErrUnsupported, packet, 4*leastPacket)
	}
	if on(v["log_bin"]) && strings.EqualFold(v["binlog_format"], "STATEMENT") {
		return fmt.Errorf("%w: binlog_format is STATEMENT, with which it refuses writes under READ COMMITTED: SET GLOBAL binlog_format = 'ROW' "+
			"(or 'MIXED'), and in its configuration, then reconnect", ErrUnsupported)
	}
	return nil
}

func (v settings) checkDurability(allowUnsafe bool) error {
	if allowUnsafe {
		return nil
	}
	const orAllow = "or say allow_unsafe_durability (mysql.Config.AllowUnsafeDurability), and lose messages when the machine fails"
	switch {
	case v["innodb_flush_log_at_trx_commit"] != "1":
		return fmt.Errorf("%w: innodb_flush_log_at_trx_commit is %s: SET GLOBAL innodb_flush_log_at_trx_commit = 1, and in its configuration; %s",
			ErrUnsafe, v["innodb_flush_log_at_trx_commit"], orAllow)
	case on(v["log_bin"]) && v["sync_binlog"] != "1":
		return fmt.Errorf("%w: the binary log is on and sync_binlog is %s, so that recovery takes back what the log has lost: "+
			"SET GLOBAL sync_binlog = 1, and in its configuration; %s", ErrUnsafe, v["sync_binlog"], orAllow)
	case off(v["innodb_doublewrite"]):
		return fmt.Errorf("%w: innodb_doublewrite is off, so that a page may be written by half: switch it on; %s", ErrUnsafe, orAllow)
	}
	return nil
}

// checkNumbers refuses servers on which a relay cannot tell whether a missing row number will still come.
func (v settings) checkNumbers() error {
	switch {
	case on(v["wsrep_on"]):
		return fmt.Errorf("%w: it is a node of a Galera cluster, whose nodes do not see each other's locks; "+
			"a relay there would take an open transaction's row for one that never comes. Keep the outbox on a single primary", ErrUnsupported)
	case off(v["group_replication_single_primary_mode"]):
		return fmt.Errorf("%w: group replication runs with several primaries, which do not see each other's locks: "+
			"switch to single-primary mode", ErrUnsupported)
	case v["auto_increment_increment"] != "1":
		return fmt.Errorf("%w: auto_increment_increment is %s, so that each row leaves numbers out which a relay has to wait for: "+
			"SET GLOBAL auto_increment_increment = 1, auto_increment_offset = 1, and in its configuration, then reconnect",
			ErrUnsupported, v["auto_increment_increment"])
	}
	return nil
}

func on(value string) bool  { return strings.EqualFold(value, "ON") || value == "1" }
func off(value string) bool { return strings.EqualFold(value, "OFF") || value == "0" }

// isolation is the variable that holds the isolation level.
func (s *server) isolation() string {
	if s.mariadb {
		return "tx_isolation" // transaction_isolation came with 11.1
	}
	return "transaction_isolation"
}
