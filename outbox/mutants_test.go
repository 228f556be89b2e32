package outbox_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// mutant is a planted bug: a decision of the design undone. A file of testdata/mutants has
//
//	why: what is wrong with it
//	test: package -run pattern          the tests that have to fail
//	file: path                          and then, once or more, what is replaced there
//	--- find
//	…
//	--- replace
//	…
type mutant struct {
	name, why, pkg, run string
	edits               []edit
}

type edit struct{ file, find, replace string }

// TestMutants plants each bug in a copy of the module and demands that its tests fail. It takes minutes, so it runs with
// TWOSTEP_MUTANTS=1 (or a name's beginning) or TWOSTEP_LONG=1 alone.
func TestMutants(t *testing.T) {
	only := os.Getenv("TWOSTEP_MUTANTS")
	if only == "" && os.Getenv("TWOSTEP_LONG") == "" {
		t.Skip("set TWOSTEP_MUTANTS=1 (or the beginning of a name) or TWOSTEP_LONG=1")
	}
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	mutants := readMutants(t)
	copied := copyModule(t, root)
	for _, m := range mutants {
		if only != "" && only != "1" && !strings.HasPrefix(m.name, only) {
			continue
		}
		t.Run(m.name, func(t *testing.T) { m.mustBeCaught(t, copied) })
	}
}

// TestMutantsApply keeps the planted bugs up to date with the code.
func TestMutantsApply(t *testing.T) {
	t.Parallel()
	mutants := readMutants(t)
	if len(mutants) < 20 {
		t.Errorf("only %d mutants", len(mutants))
	}
	for _, m := range mutants {
		text := map[string]string{}
		for _, e := range m.edits {
			if text[e.file] == "" {
				b, err := os.ReadFile(filepath.Join("..", filepath.FromSlash(e.file)))
				if err != nil {
					t.Errorf("%s: %v", m.name, err)
					continue
				}
				text[e.file] = string(b)
			}
			if n := strings.Count(text[e.file], e.find); n != 1 {
				t.Errorf("%s does not apply: its text is %d times in %s; write it anew in testdata/mutants/%s.patch:\n%s", m.name, n, e.file, m.name, e.find)
			}
			text[e.file] = strings.Replace(text[e.file], e.find, e.replace, 1)
		}
	}
}

func readMutants(t *testing.T) []mutant {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "mutants", "*.patch"))
	if err != nil {
		t.Fatal(err)
	}
	var out []mutant
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		m, err := parseMutant(strings.TrimSuffix(filepath.Base(f), ".patch"), string(b))
		if err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		out = append(out, m)
	}
	return out
}

func parseMutant(name, text string) (mutant, error) {
	m := mutant{name: name}
	var part *string
	for line := range strings.Lines(text) {
		plain := strings.TrimSuffix(line, "\n")
		key, value, _ := strings.Cut(plain, ": ")
		switch {
		case plain == "--- find" && len(m.edits) > 0:
			part = &m.edits[len(m.edits)-1].find
		case plain == "--- replace" && len(m.edits) > 0:
			part = &m.edits[len(m.edits)-1].replace
		case key == "file":
			part = nil
			m.edits = append(m.edits, edit{file: value})
		case part != nil:
			*part += line
		case key == "why":
			m.why = value
		case key == "test":
			m.pkg, m.run, _ = strings.Cut(value, " -run ")
			m.run = strings.Trim(m.run, "'")
		default:
			return m, fmt.Errorf("line %q", plain)
		}
	}
	for i := range m.edits {
		m.edits[i].find = strings.TrimSuffix(m.edits[i].find, "\n")
		m.edits[i].replace = strings.TrimSuffix(m.edits[i].replace, "\n")
	}
	if m.why == "" || m.run == "" || len(m.edits) == 0 {
		return m, errors.New("why, test and at least one file are needed")
	}
	return m, nil
}

// copyModule copies the module's files to a folder of the test's own.
func copyModule(t *testing.T, root string) string {
	t.Helper()
	to := t.TempDir()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		switch {
		case d.IsDir() && rel != "." && strings.HasPrefix(d.Name(), "."):
			return filepath.SkipDir
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		case !d.Type().IsRegular():
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), b, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// mustBeCaught plants the bug, runs the tests, and takes the bug out again.
func (m mutant) mustBeCaught(t *testing.T, module string) {
	for _, e := range m.edits {
		path := filepath.Join(module, filepath.FromSlash(e.file))
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Count(string(b), e.find) != 1 {
			t.Fatalf("does not apply to %s", e.file)
		}
		original := b
		if err := os.WriteFile(path, []byte(strings.Replace(string(b), e.find, e.replace, 1)), 0o644); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := os.WriteFile(path, original, 0o644); err != nil {
				t.Error(err)
			}
		}()
	}
	began := time.Now()
	cmd := exec.CommandContext(t.Context(), "go", "test", "-count=1", "-timeout=5m", "-run", m.run, m.pkg)
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "TWOSTEP_MUTANTS=", "TWOSTEP_LONG=", "TWOSTEP_SEED=", "TWOSTEP_SEEDS=", "GOFLAGS=-mod=mod")
	out, err := cmd.CombinedOutput()
	text := string(out)
	switch {
	case err == nil:
		t.Errorf("not caught: %s (%s -run %s passes)", m.why, m.pkg, m.run)
	case !strings.Contains(text, "--- FAIL"):
		t.Errorf("the tests did not run: %v\n%s", err, text)
	default:
		t.Logf("caught after %s: %s", time.Since(began).Round(time.Millisecond), firstFailure(text))
	}
}

// firstFailure is the first line that says what failed.
func firstFailure(text string) string {
	for line := range strings.Lines(text) {
		if strings.Contains(line, "_test.go:") && !strings.Contains(line, "step:") {
			if line = strings.TrimSpace(line); len(line) > 200 {
				line = line[:200] + "…"
			}
			return line
		}
	}
	return "no message"
}
