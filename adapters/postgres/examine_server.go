package postgres

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/twostep-mq/twostep/broker"
)

// server examines what does not depend on our tables.
func (e *examination) server() {
	e.add(e.version())
	e.add(e.encoding())
	e.add(e.primary())
	e.add(e.durability())
	e.check("clock", e.clock)
	e.check("pooler", e.pooler)
	e.check("open transactions", e.transactions)
	e.check("prepared transactions", e.prepared)
	e.add(e.idleTransactions())
}

func (e *examination) version() broker.Finding {
	f := broker.Finding{Check: "server version", Value: "PostgreSQL " + e.settings["server_version"].value}
	if number, err := strconv.Atoi(e.settings["server_version_num"].value); err != nil || number < minVersion {
		f.Level, f.Problem, f.Fix = broker.LevelError, "it is too old", "use PostgreSQL 13 or later"
	}
	return f
}

func (e *examination) encoding() broker.Finding {
	f := broker.Finding{Check: "encoding", Value: e.settings["server_encoding"].value}
	if f.Value != "UTF8" {
		f.Level, f.Problem = broker.LevelError, "keys and topics are UTF-8, and some cannot be stored"
		f.Fix = "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, and move there"
	}
	return f
}

// primary: this server takes writes.
func (e *examination) primary() broker.Finding {
	f := broker.Finding{Check: "writable", Value: "primary"}
	switch {
	case e.standby:
		f.Level, f.Value, f.Problem = broker.LevelError, "standby", "nothing can be written here"
		f.Fix = "name the primary in the DSN, or several servers with target_session_attrs=read-write"
	case e.settings["default_transaction_read_only"].value == "on":
		f.Level, f.Value = broker.LevelError, "default_transaction_read_only = on"
		f.Problem, f.Fix = "statements outside of our transactions cannot write", e.change("default_transaction_read_only", "off")
	}
	return f
}

// durability: what was acknowledged survives a crash.
func (e *examination) durability() broker.Finding {
	f := broker.Finding{Check: "durability"}
	var values, fixes []string
	for _, name := range []string{"fsync", "full_page_writes", "synchronous_commit"} {
		value := e.settings[name].value
		values = append(values, name+" = "+value)
		if value == "off" {
			fixes = append(fixes, e.change(name, "on"))
		}
	}
	f.Value, f.Fix = strings.Join(values, ", "), strings.Join(fixes, "; ")
	if len(fixes) > 0 {
		f.Level, f.Problem = broker.LevelError, "commits that were acknowledged may be lost in a crash"
		if e.cfg.AllowUnsafeDurability {
			f.Level, f.Problem = broker.LevelWarning, f.Problem+"; allow_unsafe_durability accepts that, without twostep's promises"
		}
	}
	return f
}

// clock compares the server's with this process's, in the middle of the question.
func (e *examination) clock() (f broker.Finding, err error) {
	var there float64
	asked := time.Now()
	if err := e.ask(`SELECT extract(epoch FROM clock_timestamp())::float8`, nil, &there); err != nil {
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

// pooler finds out whether connections are the server's: it tells its process's number at the beginning of a connection and when it is asked.
func (e *examination) pooler() (f broker.Finding, err error) {
	var told, asked uint32
	err = withConn(e.ctx, e.db, func(pg *pgx.Conn) error {
		told = pg.PgConn().PID()
		return pg.QueryRow(e.ctx, `SELECT pg_backend_pid()`).Scan(&asked)
	})
	f.Value = "none"
	if err == nil && told != asked {
		f.Level, f.Value = broker.LevelNote, "a pooler stands between"
		f.Problem = "in transaction mode migrations lose their lock, and old versions do not know prepared statements"
		f.Fix = "migrate over a direct connection; default_query_exec_mode=exec in the DSN where statements are not found"
	}
	return f, err
}

// transactions finds the oldest open one that may hold a gap of the outbox open: any that has written, in any database.
func (e *examination) transactions() (f broker.Finding, err error) {
	var (
		open, hidden, pid int
		age               float64
		name, state       string
	)
	err = e.ask(`SELECT count(*) FILTER (WHERE xact_start IS NOT NULL), count(*) FILTER (WHERE query = '<insufficient privilege>'),
  coalesce(extract(epoch FROM clock_timestamp() - min(xact_start)), 0)::float8,
  coalesce((array_agg(pid ORDER BY xact_start))[1], 0), coalesce((array_agg(application_name ORDER BY xact_start))[1], ''), coalesce((array_agg(state ORDER BY xact_start))[1], '')
FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()`, nil, &open, &hidden, &age, &pid, &name, &state)
	if err != nil {
		return f, err
	}
	oldest := time.Duration(age * float64(time.Second))
	f.Value = "none"
	if open > 0 {
		f.Value = fmt.Sprintf("%d, the oldest for %v: pid %d, application_name %q, %s", open, oldest.Round(time.Second), pid, name, state)
	}
	switch {
	case oldest > e.old:
		f.Level, f.Problem = broker.LevelWarning, "it holds gaps of the outbox open, and keeps deleted rows from being cleaned up"
		f.Fix = fmt.Sprintf("end it where it was begun, or SELECT pg_terminate_backend(%d)", pid)
	case hidden > 0:
		f.Level, f.Problem = broker.LevelNote, fmt.Sprintf("%d connections of other roles cannot be looked at", hidden)
		f.Fix = "GRANT pg_read_all_stats TO " + quoted(e.role)
	}
	return f, nil
}

// prepared: XA branches need prepared transactions; a forgotten one is as bad as an open transaction.
func (e *examination) prepared() (f broker.Finding, err error) {
	var (
		count int
		age   float64
		gid   string
	)
	err = e.ask(`SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - min(prepared)), 0)::float8, coalesce((array_agg(gid ORDER BY prepared))[1], '')
FROM pg_prepared_xacts`, nil, &count, &age, &gid)
	if err != nil {
		return f, err
	}
	most := e.settings["max_prepared_transactions"].value
	f.Value = fmt.Sprintf("max_prepared_transactions = %s, %d prepared", most, count)
	oldest := time.Duration(age * float64(time.Second))
	switch {
	case oldest > e.old:
		f.Level, f.Value = broker.LevelWarning, fmt.Sprintf("%s, the oldest for %v: %s", f.Value, oldest.Round(time.Second), gid)
		f.Problem = "it keeps its locks, holds gaps of the outbox open, and keeps deleted rows from being cleaned up"
		f.Fix = "where its coordinator is gone for good: COMMIT PREPARED or ROLLBACK PREPARED '" + gid + "'"
	case most == "0":
		f.Level, f.Problem = broker.LevelNote, "XA branches cannot be prepared here; nothing else needs it"
		f.Fix = "ALTER SYSTEM SET max_prepared_transactions = 200, and restart the server"
	}
	return f, nil
}

func (e *examination) idleTransactions() broker.Finding {
	const name = "idle_in_transaction_session_timeout"
	f := broker.Finding{Check: "idle transactions", Value: name + " = " + e.settings[name].value}
	if e.settings[name].value == "0" {
		f.Level, f.Problem = broker.LevelNote, "a client that forgets its transaction holds gaps of the outbox open for ever"
		f.Fix = "ALTER DATABASE " + quoted(e.database) + " SET " + name + " = '5min'"
	} else {
		f.Value += " ms"
	}
	return f
}
