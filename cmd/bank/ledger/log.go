package ledger

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// Event is what a record of the log is about.
type Event string

const (
	// EventStarted begins the records of a process; EventFinished says that nothing is left to do.
	EventStarted  Event = "started"
	EventFinished Event = "finished"
	// EventAsked: the transfer is about to be tried. It may be asked for again after a crash.
	EventAsked Event = "asked"
	// EventCommitted, EventRefused and EventRolledBack are the results.
	EventCommitted  Event = "committed"
	EventRefused    Event = "refused"
	EventRolledBack Event = "rolled_back"
	// EventCounts: what the process has counted since it started.
	EventCounts Event = "counts"
)

// Record is one line of the log.
type Record struct {
	// At in Unix milliseconds.
	At    int64 `json:"at_ms"`
	Event Event `json:"event"`
	// Transfer of EventAsked; ID of results.
	Transfer *Transfer        `json:"transfer,omitempty"`
	ID       string           `json:"id,omitempty"`
	Counts   map[string]int64 `json:"counts,omitempty"`
}

// Log is a file of records that survives a crash of its process at any moment: lines of JSON, only ever added to. A record
// counts once Write has returned.
type Log struct {
	file *os.File

	// flush is held while lines are written and synced; who waits for it finds his line on the disk when he gets it.
	flush  sync.Mutex
	mu     sync.Mutex // guards batch
	batch  *logBatch
	failed error // guarded by flush
}

type logBatch struct {
	lines bytes.Buffer
	done  bool  // guarded by Log.flush
	err   error // guarded by Log.flush
}

// OpenLog opens the log at path, or makes it, and returns what it holds. The line a crash cut off is taken away: nobody was told
// that it was written.
func OpenLog(path string) (*Log, []Record, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("ledger: open log: %w", err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		_ = f.Close()
		return nil, nil, fmt.Errorf("ledger: read log: %w", err)
	}
	records, whole, err := parseLog(raw)
	if err == nil && whole < len(raw) {
		err = f.Truncate(int64(whole))
	}
	if err != nil {
		_ = f.Close()
		return nil, nil, fmt.Errorf("ledger: read log %s: %w", path, err)
	}
	return &Log{file: f, batch: new(logBatch)}, records, nil
}

// ReadLog returns what the log at path holds, without opening it for writing.
func ReadLog(path string) ([]Record, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("ledger: read log: %w", err)
	}
	records, _, err := parseLog(raw)
	if err != nil {
		return nil, fmt.Errorf("ledger: read log %s: %w", path, err)
	}
	return records, nil
}

// parseLog reads whole lines and tells how many bytes those are.
func parseLog(raw []byte) (records []Record, whole int, err error) {
	for {
		line, _, found := bytes.Cut(raw[whole:], []byte{'\n'})
		if !found {
			return records, whole, nil
		}
		var r Record
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, 0, fmt.Errorf("line %d: %w", len(records)+1, err)
		}
		records = append(records, r)
		whole += len(line) + 1
	}
}

// Write returns when the records are on the disk. Concurrent calls share a sync.
func (l *Log) Write(records ...Record) error {
	b, err := l.add(records)
	if err != nil {
		return err
	}
	l.flush.Lock()
	defer l.flush.Unlock()
	if b.done {
		return b.err
	}
	return l.sync()
}

// Note adds records that go to the disk with the next Write, or at Close.
func (l *Log) Note(records ...Record) error {
	_, err := l.add(records)
	return err
}

func (l *Log) add(records []Record) (*logBatch, error) {
	var lines []byte
	for _, r := range records {
		r.At = time.Now().UnixMilli()
		line, err := json.Marshal(r)
		if err != nil {
			return nil, fmt.Errorf("ledger: encode a record: %w", err)
		}
		lines = append(append(lines, line...), '\n')
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.batch.lines.Write(lines)
	return l.batch, nil
}

// sync writes the current batch; flush is held. After an error the log takes nothing more: what is on the disk is unknown.
func (l *Log) sync() error {
	l.mu.Lock()
	b := l.batch
	l.batch = new(logBatch)
	l.mu.Unlock()
	b.done = true
	if b.err = l.failed; b.err != nil || b.lines.Len() == 0 {
		return b.err
	}
	_, err := l.file.Write(b.lines.Bytes())
	if err == nil {
		err = l.file.Sync()
	}
	if err != nil {
		l.failed = fmt.Errorf("ledger: write log: %w", err)
	}
	b.err = l.failed
	return b.err
}

// Close writes what is left and closes the file.
func (l *Log) Close() error {
	l.flush.Lock()
	defer l.flush.Unlock()
	err := l.sync()
	if closeErr := l.file.Close(); closeErr != nil {
		err = errors.Join(err, fmt.Errorf("ledger: close log: %w", closeErr))
	}
	if l.failed == nil {
		l.failed = errors.New("ledger: the log is closed")
	}
	return err
}
