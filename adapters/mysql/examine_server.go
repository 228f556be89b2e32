package mysql

import (
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/twostep-mq/twostep/broker"
)

// slowLocks is from how many seconds on waiting for a lock is worth a word: meanwhile a relay or a handler stands still.
const slowLocks = 60

// server examines the server and its settings.
func (e *examination) server() {
	v := e.vars
	kind := "MySQL "
	if v.mariadb() {
		kind = "MariaDB "
	}
	e.judge("server version", kind+v["version"], broker.LevelError, v.old())
	e.writable()
	e.durability()
	e.judge("binary log", v.value("log_bin", "binlog_format"), broker.LevelError, v.statementLog())
	e.judge("packet size", v.value("max_allowed_packet"), broker.LevelError, v.smallPackets())
	e.settings()
	e.check("clock", e.clock)
	e.check("open transactions", e.transactions)
	e.check("prepared transactions", e.prepared)
}

// value lists variables as the server says them.
func (v settings) value(names ...string) string {
	var values []string
	for _, name := range names {
		if value, ok := v[name]; ok {
			values = append(values, name+" = "+value)
		}
	}
	return strings.Join(values, ", ")
}

func (e *examination) writable() {
	f := broker.Finding{Check: "writable", Value: e.vars.value("read_only", "super_read_only", "innodb_read_only")}
	for _, name := range []string{"innodb_read_only", "super_read_only", "read_only"} {
		// MariaDB also says NO_LOCK and the like; OFF alone lets everybody write.
		if value := e.vars[name]; value != "" && !off(value) {
			f.Level, f.Problem = broker.LevelError, name+" is "+value+": nothing can be written here"
			f.Fix = "connect to the primary; or where this is it: SET GLOBAL " + name + " = OFF"
			break
		}
	}
	e.add(f)
}

func (e *examination) durability() {
	level := broker.LevelError
	flaws := e.vars.unsafe()
	if !e.vars.mariadb() {
		var name, redo string
		if err := e.ask("SHOW GLOBAL STATUS LIKE 'Innodb_redo_log_enabled'", nil, &name, &redo); err == nil && off(redo) {
			flaws = append(flaws, flaw{"InnoDB's redo log is switched off, so that a crash loses everything", "ALTER INSTANCE ENABLE INNODB REDO_LOG"})
		}
	}
	if e.cfg.AllowUnsafeDurability {
		level = broker.LevelWarning // whoever configured it knows
	}
	e.judge("durability", e.vars.value("innodb_flush_log_at_trx_commit", "log_bin", "sync_binlog", "innodb_doublewrite", "innodb_flush_method"), level, flaws)
}

// settings are those that work as they are, and can hurt.
func (e *examination) settings() {
	v := e.vars
	var flaws []flaw
	if engine := v["default_storage_engine"]; !strings.EqualFold(engine, "InnoDB") {
		flaws = []flaw{{
			"your own tables are made in " + engine + ", which is not in twostep's transactions",
			"SET GLOBAL default_storage_engine = InnoDB, and in its configuration",
		}}
	}
	e.judge("storage engine", v.value("default_storage_engine"), broker.LevelWarning, flaws)

	flaws = nil
	if mode := v["sql_mode"]; !strings.Contains(mode, "STRICT_TRANS_TABLES") && !strings.Contains(mode, "STRICT_ALL_TABLES") {
		flaws = []flaw{{
			"values that do not fit are changed without an error, in your own tables too",
			"SET GLOBAL sql_mode = CONCAT(@@GLOBAL.sql_mode, ',STRICT_TRANS_TABLES'), and in its configuration, then reconnect",
		}}
	}
	e.judge("SQL mode", v.value("sql_mode"), broker.LevelWarning, flaws)

	flaws = nil
	if seconds, err := strconv.Atoi(v["innodb_lock_wait_timeout"]); err == nil && seconds > slowLocks {
		flaws = []flaw{{
			"a handler waits that long for a row that a forgotten transaction has locked, and with it those behind",
			"SET GLOBAL innodb_lock_wait_timeout = 50, and in its configuration, then reconnect",
		}}
	}
	e.judge("lock waits", v.value("innodb_lock_wait_timeout", "innodb_rollback_on_timeout", "innodb_snapshot_isolation"), broker.LevelWarning, flaws)

	if e.set == Service {
		e.judge("row numbers", v.value("auto_increment_increment", "auto_increment_offset"), broker.LevelError, v.stepNumbers())
		value := v.value("wsrep_on", "group_replication_single_primary_mode")
		if value == "" {
			value = "none"
		}
		e.judge("cluster", value, broker.LevelError, v.severalPrimaries())
	}
}

// clock compares the server's with this process's, in the middle of the question.
func (e *examination) clock() (f broker.Finding, err error) {
	var there float64
	asked := time.Now()
	if err := e.ask("SELECT CAST(UNIX_TIMESTAMP(SYSDATE(6)) AS DOUBLE)", nil, &there); err != nil {
		return f, err
	}
	took := time.Since(asked)
	ahead := time.UnixMicro(int64(there * 1e6)).Sub(asked.Add(took / 2))
	f.Value = fmt.Sprintf("the server's is %v ahead of this process's", ahead.Round(time.Millisecond))
	if ahead < 0 {
		f.Value = fmt.Sprintf("the server's is %v behind this process's", -ahead.Round(time.Millisecond))
	}
	if ahead.Abs() > clockMost+took/2 {
		f.Level, f.Problem = broker.LevelWarning, "ages, and when parked messages run again, are wrong by that"
		f.Fix = "synchronise both clocks (NTP)"
	}
	return f, nil
}

// transactions finds the oldest open one: what it has written to the outbox is a gap meanwhile.
func (e *examination) transactions() (f broker.Finding, err error) {
	var open, age, thread, rows int64
	err = e.ask("SELECT COUNT(*), COALESCE(MAX(TIMESTAMPDIFF(SECOND, trx_started, NOW())), 0), "+
		"COALESCE(CAST(SUBSTRING_INDEX(GROUP_CONCAT(trx_mysql_thread_id ORDER BY trx_started), ',', 1) AS SIGNED), 0), "+
		"COALESCE(CAST(SUBSTRING_INDEX(GROUP_CONCAT(trx_rows_modified ORDER BY trx_started), ',', 1) AS SIGNED), 0) "+
		"FROM information_schema.INNODB_TRX WHERE trx_mysql_thread_id <> CONNECTION_ID()", nil, &open, &age, &thread, &rows)
	if is(err, codeMissingRight) {
		f.Level, f.Value, f.Problem = broker.LevelNote, "unknown", "this user may not look at transactions"
		f.Fix = "GRANT PROCESS ON *.* TO " + account(e.user)
		return f, nil
	}
	if err != nil {
		return f, err
	}
	f.Value = "none"
	if open > 0 {
		f.Value = fmt.Sprintf("%d, the oldest for %v: connection %d, %d rows written", open, time.Duration(age)*time.Second, thread, rows)
	}
	if oldest := time.Duration(age) * time.Second; oldest > e.old {
		f.Level, f.Problem = broker.LevelWarning, "it holds gaps of the outbox open, and keeps deleted rows from being cleaned up"
		f.Fix = fmt.Sprintf("end it where it was begun, or KILL %d", thread)
	}
	return f, nil
}

// prepared: a forgotten XA branch is as bad as an open transaction.
func (e *examination) prepared() (f broker.Finding, err error) {
	rows, err := e.db.QueryContext(e.ctx, "XA RECOVER")
	if is(err, codeMissingRight, codeNoXARight) {
		f.Level, f.Value, f.Problem = broker.LevelNote, "unknown", "this user may not list prepared XA branches; XA needs it, and nothing else does"
		f.Fix = "GRANT XA_RECOVER_ADMIN ON *.* TO " + account(e.user)
		return f, nil
	}
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	n := 0
	for ; rows.Next(); n++ {
		var format, length, branch int64
		var data sql.RawBytes
		if err := rows.Scan(&format, &length, &branch, &data); err != nil {
			return f, err
		}
	}
	f.Value = fmt.Sprintf("%d XA branches", n)
	if n > 0 {
		f.Level, f.Problem = broker.LevelWarning, "prepared branches keep their locks and hold gaps of the outbox open until they are decided"
		f.Fix = "where the coordinator is gone for good: XA RECOVER CONVERT XID, then XA COMMIT or XA ROLLBACK each"
	}
	return f, rows.Err()
}

// account is a user as GRANT wants it.
func account(user string) string {
	name, host, _ := strings.Cut(user, "@")
	return "'" + name + "'@'" + host + "'"
}
