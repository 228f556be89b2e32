package ledger

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestLogGivesBackWhatWasWritten(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	l, records, err := OpenLog(path)
	if err != nil || len(records) != 0 {
		t.Fatalf("new log: %v, %v", records, err)
	}
	var writers sync.WaitGroup
	for w := range 8 {
		writers.Go(func() {
			for i := range 50 {
				tr := Transfer{ID: strconv.Itoa(w*50 + i), From: "a", To: "b", Amount: 1}
				if err := l.Write(Record{Event: EventAsked, Transfer: &tr}); err != nil {
					t.Error(err)
				}
				if err := l.Note(Record{Event: EventCommitted, ID: tr.ID}); err != nil {
					t.Error(err)
				}
				// What Write returned for is in the file, whoever synced it.
				raw, err := os.ReadFile(path)
				if err != nil || !strings.Contains(string(raw), `"id":"`+tr.ID+`"`) {
					t.Errorf("transfer %s is not in the log after Write", tr.ID)
				}
			}
		})
	}
	writers.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Write(Record{Event: EventFinished}); err == nil {
		t.Error("a closed log took a record")
	}
	records, err = ReadLog(path)
	if err != nil {
		t.Fatal(err)
	}
	if h := HistoryOf(records); len(h.Asked) != 400 || h.Asked[399].Result != EventCommitted {
		t.Errorf("%d transfers in the log, want 400", len(h.Asked))
	}
}

func TestLogDropsTheLineACrashCutOff(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	whole := `{"at_ms":1,"event":"started"}` + "\n" + `{"at_ms":2,"event":"asked","transfer":{"id":"t1","from":"a","to":"b","amount":3}}` + "\n"
	if err := os.WriteFile(path, []byte(whole+`{"at_ms":3,"event":"commi`), 0o600); err != nil {
		t.Fatal(err)
	}
	l, records, err := OpenLog(path)
	if err != nil || len(records) != 2 {
		t.Fatalf("%d records, %v; want 2", len(records), err)
	}
	if err := l.Write(Record{Event: EventCommitted, ID: "t1"}); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	records, err = ReadLog(path)
	if err != nil || len(records) != 3 || records[2].ID != "t1" {
		t.Errorf("records %+v, %v", records, err)
	}
}

func TestLogRefusesDamage(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte("{\"at_ms\":1}\nnonsense\n{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := OpenLog(path); err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("error %v, want one that names line 2", err)
	}
}

func TestHistoryAddsUpProcesses(t *testing.T) {
	t.Parallel()
	tr := func(id string) *Transfer { return &Transfer{ID: id} }
	h := HistoryOf([]Record{
		{At: 1000, Event: EventStarted},
		{At: 1100, Event: EventAsked, Transfer: tr("t1")},
		{At: 1200, Event: EventCounts, Counts: map[string]int64{"retries": 1}},
		{At: 1300, Event: EventCounts, Counts: map[string]int64{"retries": 3}},
		{At: 9000, Event: EventStarted},
		{At: 9000, Event: EventAsked, Transfer: tr("t1")},
		{At: 9100, Event: EventCommitted, ID: "t1"},
		{At: 9100, Event: EventAsked, Transfer: tr("t2")},
		{At: 9150, Event: EventCounts, Counts: map[string]int64{"retries": 4}},
		{At: 9200, Event: EventFinished},
	})
	if len(h.Asked) != 2 || h.Asked[0].Result != EventCommitted || h.Asked[1].Result != "" {
		t.Errorf("asked %+v", h.Asked)
	}
	if h.Starts != 2 || !h.Finished || h.Counts["retries"] != 7 || h.Active != 500*time.Millisecond {
		t.Errorf("history %+v", h)
	}
}
