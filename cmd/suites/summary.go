package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// suite is what is known of one package.
type suite struct {
	passed, failed int
	// skipped are the tests that were, by the reason they gave.
	skipped map[string][]string
	// output by test; "" is the package's own.
	output map[string][]string
}

// summary gathers suites while they run.
type summary struct {
	out      io.Writer
	suites   map[string]*suite
	packages int
	passed   int
	skipped  int
	failures int
	empty    []string
	failed   []string
}

// summarize copies what matters from in to out, as it comes.
func summarize(in io.Reader, out io.Writer, label string) (ok bool, err error) {
	begun := time.Now()
	s := &summary{out: out, suites: map[string]*suite{}}
	s.printf("== suites (%s)\n", label)
	err = eachLine(in, s.take)
	if err != nil {
		return false, err
	}
	s.printf("== %d suites, %d tests passed, %d skipped, %d suites failed, %s (%s)\n",
		s.packages, s.passed, s.skipped, len(s.failed), time.Since(begun).Round(time.Second), label)
	if len(s.empty) > 0 {
		s.printf("   without tests: %s\n", strings.Join(s.empty, " "))
	}
	if len(s.failed) > 0 {
		s.printf("   FAILED: %s\n", strings.Join(s.failed, " "))
	}
	s.printf("%d passed, %d failed, %d skipped\n", s.passed, max(s.failures, len(s.failed)), s.skipped)
	return len(s.failed) == 0 && s.packages > 0, nil
}

func (s *summary) printf(format string, args ...any) { _, _ = fmt.Fprintf(s.out, format, args...) }

func (s *summary) take(line string) {
	var e event
	if json.Unmarshal([]byte(line), &e) != nil {
		s.printf("%s", line) // not an event: the go command's own words
		return
	}
	switch e.Action {
	case "build-output":
		s.printf("%s", e.Output)
		return
	case "build-fail":
		return // the package's own failure follows
	}
	p := s.suites[e.Package]
	if p == nil {
		p = &suite{output: map[string][]string{}, skipped: map[string][]string{}}
		s.suites[e.Package] = p
	}
	switch e.Action {
	case "output":
		p.output[e.Test] = append(p.output[e.Test], e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			s.finish(e, p)
			return
		}
		p.count(e)
	}
}

// count takes the end of one test.
func (p *suite) count(e event) {
	switch e.Action {
	case "pass":
		p.passed++
		delete(p.output, e.Test)
	case "fail":
		p.failed++
	case "skip":
		why := reason(p.output[e.Test])
		p.skipped[why] = append(p.skipped[why], e.Test)
		delete(p.output, e.Test)
	}
}

// finish takes the end of a package.
func (s *summary) finish(e event, p *suite) {
	delete(s.suites, e.Package)
	switch e.Action {
	case "skip":
		s.empty = append(s.empty, e.Package[strings.LastIndexByte(e.Package, '/')+1:])
		return
	case "fail":
		s.failed = append(s.failed, e.Package)
		s.printf("FAIL %s: %d tests failed\n", e.Package, p.failed)
		for _, test := range slices.Sorted(keys(p.output)) {
			for _, line := range p.output[test] {
				s.printf("     %s", line)
			}
		}
	default:
		s.printf("ok   %-60s %5d tests %6.1f s\n", e.Package, p.passed, e.Elapsed)
	}
	s.packages++
	s.passed += p.passed
	s.failures += p.failed
	for _, why := range slices.Sorted(keys(p.skipped)) {
		tests := p.skipped[why]
		s.skipped += len(tests)
		names := strings.Join(tests[:min(len(tests), shownSkips)], ", ")
		if len(tests) > shownSkips {
			names += fmt.Sprintf(" and %d more", len(tests)-shownSkips)
		}
		s.printf("     skipped %s: %s\n", names, why)
	}
}

// shownSkips tests that were skipped for one reason are named.
const shownSkips = 3

func keys[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}
