package main

import (
	"encoding/json"
	"io"
	"strings"
)

// result is how one test ended.
type result struct {
	action string // pass, fail or skip; empty: it did not end, since its process did, or was given up
	// began: it is a test, and no mere beginning of the name of one, as in t.Run("a/b", …).
	began bool
	// why it was skipped, in its own words.
	why string
	// parent: it has subtests, which say more.
	parent bool
}

// results by package and test.
type results map[string]map[string]*result

// readResults reads how every test ended.
func readResults(in io.Reader) (results, error) {
	all := results{}
	output := map[string][]string{} // of tests that have not ended
	err := eachLine(in, func(line string) {
		var e event
		if json.Unmarshal([]byte(line), &e) != nil || e.Test == "" {
			return
		}
		key := e.Package + " " + e.Test
		switch e.Action {
		case "run":
			all.of(e.Package, e.Test).began = true
		case "output":
			output[key] = append(output[key], e.Output)
		case "pass", "fail", "skip":
			r := all.of(e.Package, e.Test)
			r.action, r.began = e.Action, true
			if e.Action == "skip" {
				r.why = reason(output[key])
			}
			delete(output, key)
			for name := e.Test; strings.Contains(name, "/"); {
				name = name[:strings.LastIndexByte(name, '/')]
				all.of(e.Package, name).parent = true
			}
		}
	})
	return all, err
}

func (rs results) of(pkg, test string) *result {
	tests := rs[pkg]
	if tests == nil {
		tests = map[string]*result{}
		rs[pkg] = tests
	}
	r := tests[test]
	if r == nil {
		r = &result{}
		tests[test] = r
	}
	return r
}
