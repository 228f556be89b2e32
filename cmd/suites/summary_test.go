package main

import (
	"strings"
	"testing"
)

func TestSummarize(t *testing.T) {
	passing := `{"Action":"run","Package":"m/a","Test":"TestA"}
{"Action":"output","Package":"m/a","Test":"TestA","Output":"noise\n"}
{"Action":"pass","Package":"m/a","Test":"TestA","Elapsed":0.1}
{"Action":"output","Package":"m/a","Test":"TestB","Output":"=== RUN   TestB\n"}
{"Action":"output","Package":"m/a","Test":"TestB","Output":"    a_test.go:3: needs TWOSTEP_LONG=1\n"}
{"Action":"output","Package":"m/a","Test":"TestB","Output":"--- SKIP: TestB\n"}
{"Action":"skip","Package":"m/a","Test":"TestB"}
{"Action":"pass","Package":"m/a","Elapsed":1.5}
{"Action":"skip","Package":"m/none"}
`
	failing := passing + `{"Action":"output","Package":"m/b","Test":"TestC","Output":"the cause\n"}
{"Action":"fail","Package":"m/b","Test":"TestC"}
{"Action":"fail","Package":"m/b","Elapsed":1}
`
	broken := `{"ImportPath":"m/c","Action":"build-output","Output":"c.go:1:1: syntax error\n"}
{"ImportPath":"m/c","Action":"build-fail"}
{"Action":"fail","Package":"m/c","Elapsed":0,"FailedBuild":"m/c"}
`
	tests := []struct {
		name, in string
		ok       bool
		want     []string
		never    string
	}{
		{"passing", passing, true, []string{"ok   m/a", "skipped TestB: needs TWOSTEP_LONG=1", "1 suites, 1 tests passed, 1 skipped, 0 suites failed", "without tests: none"}, "noise"},
		{"failing", failing, false, []string{"FAIL m/b", "the cause", "FAILED: m/b"}, "noise"},
		{"broken build", broken, false, []string{"syntax error", "FAILED: m/c"}, ""},
		{"nothing ran", "", false, []string{"0 suites"}, ""},
		{"go's own words", "go: cannot find main module\n", false, []string{"cannot find main module"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			ok, err := summarize(strings.NewReader(tt.in), &out, "test")
			if err != nil || ok != tt.ok {
				t.Errorf("ok %t, %v", ok, err)
			}
			for _, want := range tt.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("missing %q in:\n%s", want, out.String())
				}
			}
			if tt.never != "" && strings.Contains(out.String(), tt.never) {
				t.Errorf("%q is printed:\n%s", tt.never, out.String())
			}
		})
	}
}
