package orm_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestRefusedByTheCompiler: what is no transaction does not compile, line by line; what is one does.
func TestRefusedByTheCompiler(t *testing.T) {
	t.Parallel()
	build := func(folder string) (string, error) {
		// All errors, not the first ten alone.
		out, err := exec.CommandContext(t.Context(), "go", "build", "-gcflags=-e", "./testdata/"+folder).CombinedOutput()
		return string(out), err
	}
	if out, err := build("accepted"); err != nil {
		t.Errorf("transactions: %v: %s", err, out)
	}
	out, err := build("refused")
	if err == nil {
		t.Error("what is no transaction compiles")
	}
	source, err := os.ReadFile("testdata/refused/refused.go")
	noError(t, err)
	tried := 0
	for i, line := range strings.Split(string(source), "\n") {
		if !strings.Contains(line, "box.Publish(") {
			continue
		}
		tried++
		var told string
		for said := range strings.Lines(out) {
			if strings.Contains(said, fmt.Sprintf("refused.go:%d:", i+1)) {
				told += said
			}
		}
		if !strings.Contains(told, "does not implement outbox.Transaction") || !strings.Contains(told, "method Commit") {
			t.Errorf("%s: the compiler said: %q", strings.TrimSpace(line), told)
		}
	}
	if tried < 8 {
		t.Errorf("only %d lines tried", tried)
	}
}
