package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// testRows is a matrix small enough to see through.
func testRows() []row {
	return []row{
		{"suite", []string{"sqlite", "mariadb", "mysql"}, []string{none}, []source{
			{pkg: "a", tests: "TestSuite[A-Z]*", database: "sqlite"},
			{pkg: "b", tests: "TestSuite/(?P<database>mariadb|mysql)"},
		}},
		{"bus", []string{none}, []string{"memory", "nats"}, []source{
			{pkg: "c", tests: "TestBus/(?P<broker>memory|nats)"},
		}},
	}
}

// ended is the events of one test.
func ended(pkg, test, action, said string) string {
	return fmt.Sprintf(`{"Action":"run","Package":"%[1]s","Test":"%[2]s"}
{"Action":"output","Package":"%[1]s","Test":"%[2]s","Output":"    x_test.go:3: %[4]s\n"}
{"Action":"%[3]s","Package":"%[1]s","Test":"%[2]s"}
`, module+pkg, test, action, said)
}

func everythingRan() string {
	return ended("a", "TestSuite/one", "pass", "") + ended("a", "TestSuite/two", "skip", "the harness cannot restart its broker") +
		ended("a", "TestSuite", "pass", "") + ended("a", "TestSuiteAGAIN", "pass", "") + ended("a", "TestSuiteless", "fail", "") +
		ended("b", "TestSuite/mariadb", "pass", "") + ended("b", "TestSuite/mysql/x", "pass", "") + ended("b", "TestSuite/mysql", "pass", "") +
		ended("b", "TestSuite/mysqlish", "fail", "") + ended("b", "TestSuite", "fail", "") +
		ended("c", "TestBus/memory", "pass", "") + ended("c", "TestBus/nats", "pass", "")
}

func tableOf(t *testing.T, events string, excused []excuse, strict bool) table {
	t.Helper()
	rs, err := readResults(strings.NewReader(events))
	if err != nil {
		t.Fatal(err)
	}
	return newTable(testRows(), rs, excused, strict)
}

func TestTable(t *testing.T) {
	all := everythingRan()
	mysqlSkipped := strings.ReplaceAll(all, ended("b", "TestSuite/mysql/x", "pass", ""), ended("b", "TestSuite/mysql/x", "skip", "no server: set X"))
	mysqlAbsent := strings.ReplaceAll(strings.ReplaceAll(all, ended("b", "TestSuite/mysql/x", "pass", ""), ""), ended("b", "TestSuite/mysql", "pass", ""), "")
	mysqlExcused := []excuse{{combination{"suite", "mysql", none}, "nobody has one"}}
	tests := []struct {
		name, events string
		excused      []excuse
		strict       bool
		problem      string // empty: it passes
		state        string // of suite on mysql
	}{
		{"everything ran", all, nil, true, "", "passed 1"},
		{"skipped, at the desk", mysqlSkipped, nil, false, "", "not run: no server: set X"},
		{"skipped", mysqlSkipped, nil, true, "suite on mysql did not run (no server: set X)", "not run: no server: set X"},
		{"skipped in part", all + ended("b", "TestSuite/mysql/y", "skip", "no server: set X"), nil, true, "suite on mysql did not run (no server: set X)", "not run: no server: set X"},
		{"skipped, and excused", mysqlSkipped, mysqlExcused, true, "", "not run: nobody has one"},
		{"absent", mysqlAbsent, nil, true, "suite on mysql did not run (none of its tests ran)", "not run: none of its tests ran"},
		{"absent, and excused", mysqlAbsent, mysqlExcused, true, "", "not run: nobody has one"},
		{"ran although excused", all, mysqlExcused, true, "suite on mysql ran: take it off", "passed 1"},
		{"ran although excused, at the desk", all, mysqlExcused, false, "", "passed 1"},
		{"failed although excused", all + ended("b", "TestSuite/mysql/y", "fail", ""), mysqlExcused, false, "suite on mysql failed", "failed"},
		{"failed in what has subtests", strings.ReplaceAll(all, ended("b", "TestSuite/mysql", "pass", ""), ended("b", "TestSuite/mysql", "fail", "")), nil, false, "suite on mysql failed", "failed"},
		{"did not end", all + `{"Action":"run","Package":"` + module + `b","Test":"TestSuite/mysql/y"}`, nil, false, "suite on mysql failed", "failed"},
		{"a name with a slash", all + ended("b", "TestSuite/mysql/a/b", "pass", ""), nil, true, "", "passed 2"},
		{"an excuse for nothing", all, []excuse{{combination{"suit", "mysql", none}, "misspelt"}}, false, "suit on mysql is on the list", "passed 1"},
		{"nothing ran", "", nil, true, "bus with nats did not run", "not run: none of its tests ran"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := tableOf(t, tt.events, tt.excused, tt.strict)
			problems := strings.Join(got.Problems, "\n")
			if got.OK != (tt.problem == "") || !strings.Contains(problems, tt.problem) {
				t.Errorf("ok %t, problems:\n%s", got.OK, problems)
			}
			for _, c := range got.Cells {
				if c.combination != (combination{"suite", "mysql", none}) {
					continue
				}
				state := string(c.State)
				switch c.State {
				case passed:
					state += fmt.Sprint(" ", c.Tests)
				case notRun:
					state += ": " + c.why()
				case failed:
				}
				if state != tt.state {
					t.Errorf("%s is %q, want %q", c.combination, state, tt.state)
				}
			}
		})
	}
}

func TestTableIsPrinted(t *testing.T) {
	got := tableOf(t, everythingRan()+ended("c", "TestBus/nats/x", "skip", "no nats"), nil, true)
	var text, asJSON strings.Builder
	if err := got.write(&text); err != nil {
		t.Fatal(err)
	}
	lines := map[string][]string{}
	for line := range strings.Lines(text.String()) {
		if fields := strings.Fields(line); len(fields) > 1 {
			lines[fields[0]+" "+fields[1]] = fields[2:]
		}
	}
	if s := fmt.Sprint(lines["suite -"], lines["bus memory"], lines["bus nats"]); s != "[2 1 1] [1] [not run]" {
		t.Errorf("%s in:\n%s", s, text.String())
	}
	for _, want := range []string{"not run: bus with nats\n      because: no nats\n", "PROBLEM: bus with nats did not run"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("missing %q in:\n%s", want, text.String())
		}
	}
	if err := got.writeJSON(&asJSON); err != nil {
		t.Fatal(err)
	}
	var read table
	if err := json.Unmarshal([]byte(asJSON.String()), &read); err != nil || fmt.Sprint(read) != fmt.Sprint(got) {
		t.Errorf("%v: %+v, want %+v", err, read, got)
	}
}

func TestExcuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "list")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("# a comment\n\nsuite | mysql | - | nobody has one | at all\n")
	got, err := readExcuses(path)
	if err != nil || len(got) != 1 || got[0] != (excuse{combination{"suite", "mysql", none}, "nobody has one | at all"}) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"suite | mysql | -", "suite | mysql | - |", "suite"} {
		write("# first\n" + bad)
		if _, err := readExcuses(path); err == nil || !strings.Contains(err.Error(), ":2: ") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := readExcuses(path + "-none"); err == nil {
		t.Error("no file, and no error")
	}
}

// TestMatrix: the combinations of the matrix are those that tests' names tell, and the committed list names some of them alone.
func TestMatrix(t *testing.T) {
	columns := map[string]bool{}
	for _, c := range databases() {
		columns[c] = true
	}
	for _, r := range matrix() {
		for _, d := range r.databases {
			if !columns[d] {
				t.Errorf("%s: the table has no column %s", r.name, d)
			}
		}
		if len(r.sources) == 0 {
			t.Errorf("%s: no tests are named", r.name)
		}
	}
	for _, tt := range []struct{ suite, pkg, test, database, broker string }{
		{"outboxtest", "adapters/mysql", "TestOutboxConformancePrepared/mysql", "mysql", none},
		{"outboxtest", "adapters/postgres", "TestOutboxConformanceSimpleProtocol", "postgres", none},
		{"GORM", "adapters/orm", "TestGORMPrepared/mariadb", "mariadb", "nats"},
		{"demo", "cmd/twostep", "TestDemoOnServers/postgres", "postgres", "nats"},
		{"demo", "cmd/twostep", "TestDemoOnServers/mysql", "mariadb", "nats"},
		{"demo", "cmd/twostep", "TestDemoOnServers/postgres,mysql", "mixed", "nats"},
		{"brokertest", "broker/nats", "TestSuite", none, "nats"},
		{"brokertest", "broker/nats", "TestSuiteOldServer", none, "nats, old"},
	} {
		rs := results{}
		rs.of(module+tt.pkg, tt.test).action = "pass"
		for _, c := range newTable(matrix(), rs, nil, false).Cells {
			if c.Suite == "all tests of the adapter" {
				continue // to which these belong, too
			}
			is := c.combination == combination{tt.suite, tt.database, tt.broker}
			if is != (c.State == passed) {
				t.Errorf("%s %s: %s is %s", tt.pkg, tt.test, c.combination, c.State)
			}
		}
	}
	excused, err := readExcuses("../../scripts/not-run.txt")
	if err != nil {
		t.Fatal(err)
	}
	if got := newTable(matrix(), nil, excused, false); !got.OK {
		t.Errorf("%q", got.Problems)
	}
}

func TestRun(t *testing.T) {
	for _, args := range [][]string{nil, {"tables"}, {"summary"}, {"table", "--nothing"}, {"table", "more"}, {"table", "--not-run", "no such file"}} {
		if _, err := run(args, strings.NewReader(""), new(strings.Builder)); err == nil {
			t.Errorf("%q was taken", args)
		}
	}
	var out strings.Builder
	ok, err := run([]string{"table", "--json"}, strings.NewReader(""), &out)
	if err != nil || !ok || !strings.Contains(out.String(), `"state": "not run"`) {
		t.Errorf("%t, %v: %s", ok, err, out.String())
	}
}
