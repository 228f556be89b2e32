package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// state of a combination.
type state string

const (
	passed state = "passed"
	failed state = "failed"
	notRun state = "not run"
)

// cell is what became of one combination.
type cell struct {
	combination
	State state `json:"state"`
	// Tests that passed; those without subtests are counted.
	Tests int `json:"tests"`
	// Reason why it did not run; Excused, why it need not.
	Reason  string `json:"reason,omitempty"`
	Excused string `json:"excused,omitempty"`
}

// table is what ran.
type table struct {
	OK    bool   `json:"ok"`
	Cells []cell `json:"combinations"`
	// Problems are what makes the run fail.
	Problems []string `json:"problems"`
}

// newTable fills the table from what the tests said. strict: what did not run is a problem unless it is excused, and so is what ran
// although it is excused.
func newTable(rows []row, rs results, excused []excuse, strict bool) table {
	t := table{Problems: []string{}}
	reasons := map[combination]string{}
	for _, e := range excused {
		reasons[e.combination] = e.reason
	}
	for _, r := range rows {
		for _, c := range r.cells(rs) {
			c.Excused = reasons[c.combination]
			delete(reasons, c.combination)
			t.Cells = append(t.Cells, c)
			switch {
			case c.State == failed:
				t.problem("%s failed", c.combination)
			case strict && c.State == notRun && c.Excused == "":
				t.problem("%s did not run (%s): make it run, or name it with the reason in the list of what need not", c.combination, c.Reason)
			case strict && c.State != notRun && c.Excused != "":
				t.problem("%s ran: take it off the list of what need not", c.combination)
			}
		}
	}
	for _, c := range slices.SortedFunc(maps.Keys(reasons), func(a, b combination) int { return strings.Compare(a.String(), b.String()) }) {
		t.problem("%s is on the list of what need not run, and is no combination there is", c)
	}
	t.OK = len(t.Problems) == 0
	return t
}

func (t *table) problem(format string, args ...any) {
	t.Problems = append(t.Problems, fmt.Sprintf(format, args...))
}

// cells are the combinations of a suite.
func (r row) cells(rs results) []cell {
	var all []cell
	index := map[combination]int{}
	for _, broker := range r.brokers {
		for _, database := range r.databases {
			c := combination{r.name, database, broker}
			index[c] = len(all)
			all = append(all, cell{combination: c, State: notRun})
		}
	}
	for _, s := range r.sources {
		m := s.matcher()
		tests := rs[module+s.pkg]
		for _, name := range slices.Sorted(maps.Keys(tests)) {
			database, broker, ok := m.match(name)
			if !ok {
				continue
			}
			if i, ok := index[combination{r.name, database, broker}]; ok {
				all[i].count(tests[name])
			}
		}
	}
	for i := range all {
		all[i].close()
	}
	return all
}

// count adds one test. Failures count wherever they are; else the tests without subtests do.
func (c *cell) count(r *result) {
	switch {
	case r.action == "fail" || r.began && r.action == "":
		c.State = failed
	case r.parent:
	case r.action == "pass":
		c.Tests++
	case r.action == "skip" && !own(r.why) && c.Reason == "":
		c.Reason = r.why
	}
}

// close decides when all tests are counted.
func (c *cell) close() {
	switch {
	case c.State == failed:
	case c.Reason != "":
	case c.Tests == 0:
		c.Reason = "none of its tests ran"
	default:
		c.State = passed
	}
}

func (t *table) writeJSON(out io.Writer) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(t)
}

// write prints a line for each suite and broker, a column for each database, and below it what did not run and why.
func (t *table) write(out io.Writer) error {
	var grid strings.Builder
	columns := databases()
	fmt.Fprintf(&grid, "suite\tbroker\t%s\n", strings.Join(columns, "\t"))
	for cells := t.Cells; len(cells) > 0; {
		first := cells[0]
		shown := map[string]string{}
		for len(cells) > 0 && cells[0].Suite == first.Suite && cells[0].Broker == first.Broker {
			c := cells[0]
			cells = cells[1:]
			switch c.State {
			case passed:
				shown[c.Database] = fmt.Sprint(c.Tests)
			case failed:
				shown[c.Database] = "FAILED"
			case notRun:
				shown[c.Database] = "not run"
			}
		}
		fmt.Fprintf(&grid, "%s\t%s", first.Suite, first.Broker)
		for _, column := range columns {
			fmt.Fprintf(&grid, "\t%s", shown[column])
		}
		fmt.Fprintln(&grid)
	}
	if _, err := io.WriteString(out, "== suite × database × broker: tests passed\n"); err != nil {
		return err
	}
	aligned := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if _, err := io.WriteString(aligned, grid.String()); err != nil {
		return err
	}
	if err := aligned.Flush(); err != nil {
		return err
	}
	_, err := io.WriteString(out, t.notes())
	return err
}

// notes are what did not run, by reason, and the problems.
func (t *table) notes() string {
	var reasons []string
	by := map[string][]string{}
	for _, c := range t.Cells {
		if c.State != notRun {
			continue
		}
		if by[c.why()] == nil {
			reasons = append(reasons, c.why())
		}
		by[c.why()] = append(by[c.why()], c.String())
	}
	var text strings.Builder
	for _, why := range reasons {
		fmt.Fprintf(&text, "   not run: %s\n      because: %s\n", strings.Join(by[why], "; "), why)
	}
	for _, problem := range t.Problems {
		fmt.Fprintf(&text, "   PROBLEM: %s\n", problem)
	}
	return text.String()
}

// why a combination did not run.
func (c cell) why() string {
	if c.Excused != "" {
		return c.Excused
	}
	return c.Reason
}
