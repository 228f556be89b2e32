package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"strings"

	"github.com/twostep-mq/twostep/broker"
)

const (
	// leastFree and littleFree are bytes on the file's disk: below the first nothing may be left for the next checkpoint.
	leastFree, littleFree = 64 << 20, 1 << 30
	// longLog is a write-ahead log that somebody keeps from being copied back.
	longLog = 256 << 20
	// manyFree are unused pages of the file that are worth a VACUUM, if they are half of it.
	manyFree = 25_000
)

// Examine looks at everything that twostep rests on in a database file, for `twostep doctor`: the settings of connections, the file, its
// disk, its contents, and the tables of a set. It changes nothing. Reading every page, it takes a while on a large file.
func Examine(ctx context.Context, db *sql.DB, set Set) []broker.Finding {
	drv, err := opened(db)
	if err != nil {
		return []broker.Finding{{Check: "driver", Level: broker.LevelError, Value: fmt.Sprintf("%T", db.Driver()), Problem: err.Error(), Fix: "open it with sqlite.Open"}}
	}
	e := &examination{ctx: ctx, db: db, path: drv.path}
	e.version()
	e.setting("journal mode", "PRAGMA journal_mode", "wal", "the file was not changed to a write-ahead log: its file system may not share memory between processes")
	e.setting("synchronous", "PRAGMA synchronous", "2", "a commit may be gone after a power failure")
	e.rights()
	e.fileSystem()
	e.disk()
	e.log()
	e.freePages()
	e.integrity()
	e.schema(set)
	return e.findings
}

// examination collects findings.
type examination struct {
	ctx      context.Context
	db       *sql.DB
	path     string
	findings []broker.Finding
}

func (e *examination) add(check string, level broker.Level, value, problem, fix string) {
	e.findings = append(e.findings, broker.Finding{Check: check, Level: level, Value: value, Problem: problem, Fix: fix})
}

// failed is a check that could not be made.
func (e *examination) failed(check string, err error) {
	e.add(check, broker.LevelError, "", explain("examine", e.path, err).Error(), "see that the file can be read and is no other program's")
}

func (e *examination) ask(check, query string, into any) bool {
	if err := e.db.QueryRowContext(e.ctx, query).Scan(into); err != nil {
		e.failed(check, err)
		return false
	}
	return true
}

func (e *examination) version() {
	var v string
	if e.ask("version", "SELECT sqlite_version()", &v) {
		e.add("version", broker.LevelOK, "SQLite "+v, "", "")
	}
}

// setting wants one value of a connection's setting, as Open makes it.
func (e *examination) setting(check, query, want, problem string) {
	var got string
	if !e.ask(check, query, &got) {
		return
	}
	value := strings.ToLower(strings.TrimPrefix(query, "PRAGMA ")) + " = " + got
	if got == want {
		e.add(check, broker.LevelOK, value, "", "")
		return
	}
	e.add(check, broker.LevelError, value, problem, query+" = "+want+", on a local disk")
}

// rights of the file: this process must write it, others should not.
func (e *examination) rights() {
	info, err := os.Stat(e.path)
	if err != nil {
		e.failed("file", err)
		return
	}
	value := fmt.Sprintf("%s, mode %04o, %d bytes", e.path, info.Mode().Perm(), info.Size())
	f, err := os.OpenFile(e.path, os.O_RDWR, 0)
	switch {
	case err != nil:
		e.add("file", broker.LevelError, value, "this user cannot write it", "run twostep as the file's owner, or chown "+e.path)
		return
	case info.Mode().Perm()&0o022 != 0:
		e.add("file", broker.LevelWarning, value, "other users can write it", "chmod 600 "+e.path)
	case info.Mode().Perm()&0o044 != 0:
		e.add("file", broker.LevelNote, value, "other users can read it, payloads included", "chmod 600 "+e.path)
	default:
		e.add("file", broker.LevelOK, value, "", "")
	}
	_ = f.Close()
}

// fileSystem: locks and shared memory of a write-ahead log work on one machine alone.
func (e *examination) fileSystem() {
	name, local := fileSystemOf(e.path)
	switch {
	case name == "":
		e.add("file system", broker.LevelNote, "unknown", "it has to be a local one: on a network's, SQLite's locks do not hold", "")
	case !local:
		e.add("file system", broker.LevelError, name, "SQLite's locks and its shared memory do not work over a network: processes of two machines would destroy the file", "move "+e.path+" to a local disk")
	default:
		e.add("file system", broker.LevelOK, name, "", "")
	}
}

func (e *examination) disk() {
	free, known := freeBytes(e.path)
	if !known {
		return
	}
	value := fmt.Sprintf("%d MiB free", free>>20)
	switch {
	case free < leastFree:
		e.add("disk", broker.LevelError, value, "the next transactions will fail", "free space on the disk of "+e.path)
	case free < littleFree:
		e.add("disk", broker.LevelWarning, value, "an outbox grows while a subscription stays away", "free space on the disk of "+e.path)
	default:
		e.add("disk", broker.LevelOK, value, "", "")
	}
}

// log is the write-ahead log beside the file.
func (e *examination) log() {
	info, err := os.Stat(e.path + "-wal")
	if err != nil {
		return // none: nothing was written since the last close
	}
	value := fmt.Sprintf("%d MiB", info.Size()>>20)
	if info.Size() > longLog {
		e.add("write-ahead log", broker.LevelWarning, value, "somebody reads an old snapshot for long, which keeps the log from being copied back: all reads become slower",
			"end the transaction that stays open, then PRAGMA wal_checkpoint(TRUNCATE)")
		return
	}
	e.add("write-ahead log", broker.LevelOK, value, "", "")
}

func (e *examination) freePages() {
	var pages, free int64
	if !e.ask("free pages", "PRAGMA page_count", &pages) || !e.ask("free pages", "PRAGMA freelist_count", &free) {
		return
	}
	value := fmt.Sprintf("%d of %d", free, pages)
	if free > manyFree && free*2 > pages {
		e.add("free pages", broker.LevelNote, value, "the file is twice as large as what is in it; it uses the room again by itself", "VACUUM, in a quiet moment: it writes the whole file anew")
		return
	}
	e.add("free pages", broker.LevelOK, value, "", "")
}

func (e *examination) integrity() {
	var first string
	if !e.ask("integrity", "PRAGMA quick_check(1)", &first) {
		return
	}
	if first != "ok" {
		e.add("integrity", broker.LevelError, first, "the file is damaged", "stop everything that writes it, and restore a backup; sqlite3 "+e.path+" .recover reads what can be read")
		return
	}
	e.add("integrity", broker.LevelOK, "quick_check: ok", "", "")
}

func (e *examination) schema(set Set) {
	list, err := Status(e.ctx, e.db, set)
	if err != nil {
		e.failed("schema", err)
		return
	}
	var missing []string
	for _, m := range list {
		if m.AppliedAt.IsZero() {
			missing = append(missing, m.Name)
		}
	}
	if len(missing) > 0 {
		e.add("schema", broker.LevelError, fmt.Sprintf("%d of %d migrations", len(list)-len(missing), len(list)),
			"missing: "+strings.Join(missing, ", "), fmt.Sprintf("twostep migrate --driver sqlite --dsn %s --for %s", e.path, set))
		return
	}
	e.add("schema", broker.LevelOK, fmt.Sprintf("%d of %d migrations", len(list), len(list)), "", "")
}
