package main

import (
	"encoding/json"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/twostep-mq/twostep"

// listed is what this test needs of one package of `go list -json`.
type listed struct {
	ImportPath string
	Imports    []string // of non-test code
	Standard   bool
	Deps       []string
}

func goList(t *testing.T, args ...string) []listed {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-json=ImportPath,Imports,Standard,Deps"}, args...)...)
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %v: %v", args, err)
	}
	var all []listed
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := d.Decode(&p); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// mayImport says, for a folder of the module, which other folders of the module its packages import. The first rule whose folder holds
// the package counts. A folder holds what is below it.
func mayImport() []struct {
	folder  string
	allowed []string
} {
	return []struct {
		folder  string
		allowed []string
	}{
		{"cmd", []string{""}},
		{"scripts", nil},
		{"configs", nil},
		{"adapters", []string{"orchestrator", "topics", "outbox", "broker"}},
		{"orchestrator/txn", nil},
		{"orchestrator", []string{"orchestrator", "topics", "outbox", "broker"}},
		{"topics", []string{"topics", "outbox", "broker", "orchestrator/txn"}},
		{"outbox", []string{"outbox", "broker", "orchestrator/txn"}},
		{"broker", []string{"broker"}},
	}
}

// within reports whether the folder is parent or below it.
func within(folder, parent string) bool {
	return parent == "" || folder == parent || strings.HasPrefix(folder, parent+"/")
}

// refusedImport says why a package may not import another one; empty: it may. Both are paths within the module.
func refusedImport(from, to string) string {
	for _, rule := range mayImport() {
		if !within(from, rule.folder) {
			continue
		}
		switch {
		case rule.folder == "adapters" && within(to, adapterOf(from)):
			return "" // parts of one adapter
		case rule.folder == "adapters" && strings.HasPrefix(to, "broker/"):
			return "adapters use the port, not one broker"
		case !slices.ContainsFunc(rule.allowed, func(a string) bool { return within(to, a) }):
			return rule.folder + " imports only: " + strings.Join(rule.allowed, ", ")
		}
		return ""
	}
	return "no rule knows this folder: add one to mayImport, and to docs"
}

// adapterOf is the adapter's own folder: adapters/sqlite.
func adapterOf(folder string) string {
	parts := strings.SplitN(folder, "/", 3)
	return strings.Join(parts[:min(2, len(parts))], "/")
}

func TestImportsRunOneWay(t *testing.T) {
	t.Parallel()
	packages := goList(t, "./...")
	if len(packages) < 10 {
		t.Fatalf("only %d packages listed", len(packages))
	}
	for _, p := range packages {
		from := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		for _, imported := range p.Imports {
			to, ours := strings.CutPrefix(imported, module+"/")
			if !ours {
				continue
			}
			if why := refusedImport(from, to); why != "" {
				t.Errorf("%s imports %s: %s", from, to, why)
			}
		}
	}
}

// The rules themselves: what must be refused is refused.
func TestImportRules(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		from, to string
		ok       bool
	}{
		{"cmd/twostep", "adapters/sqlite", true},
		{"adapters/sqlite", "topics", true},
		{"adapters/sqlite", "adapters/api", false},
		{"adapters/api", "broker/nats", false},
		{"adapters/api", "configs", false},
		{"adapters/sqlite/migrations", "adapters/sqlite", true},
		{"topics", "orchestrator/txn", true},
		{"topics", "orchestrator", false},
		{"outbox", "topics", false},
		{"broker", "outbox", false},
		{"broker/nats/embedded", "broker/nats", true},
		{"orchestrator/txn", "broker", false},
		{"elsewhere", "broker", false},
	} {
		if why := refusedImport(tt.from, tt.to); (why == "") != tt.ok {
			t.Errorf("%s imports %s: %q, allowed should be %t", tt.from, tt.to, why, tt.ok)
		}
	}
}

func TestPortsNeedTheStandardLibraryOnly(t *testing.T) {
	t.Parallel()
	standard := map[string]bool{}
	for _, p := range goList(t, "std") {
		standard[p.ImportPath] = true
	}
	for _, p := range goList(t, "./broker", "./orchestrator/txn") {
		for _, imported := range p.Imports {
			if !standard[imported] && imported != "github.com/google/uuid" {
				t.Errorf("%s imports %s", p.ImportPath, imported)
			}
		}
	}
}

// A service links what it uses: no server, no configuration library, no command line, no metrics.
func TestLibrariesLinkNothingElse(t *testing.T) {
	t.Parallel()
	never := []string{
		"github.com/nats-io/nats-server", "github.com/spf13/viper", "github.com/spf13/cobra", "github.com/prometheus", "github.com/ThreeDotsLabs", module + "/configs", module + "/cmd",
	}
	besides := map[string][]string{
		"outbox":          {"github.com/nats-io", "github.com/mattn/go-sqlite3", "github.com/pressly/goose", module + "/topics", module + "/adapters"},
		"topics":          {"github.com/nats-io", "github.com/mattn/go-sqlite3", "github.com/pressly/goose", module + "/adapters"},
		"adapters/sqlite": {"github.com/nats-io"},
		"broker/nats":     {"github.com/mattn/go-sqlite3", "github.com/pressly/goose", module + "/outbox", module + "/topics"},
	}
	for folder, more := range besides {
		for _, p := range goList(t, "./"+folder) {
			if len(p.Deps) < 5 {
				t.Errorf("%s: only %d dependencies listed", folder, len(p.Deps))
			}
			for _, dep := range p.Deps {
				for _, bad := range append(never, more...) {
					if within(dep, bad) {
						t.Errorf("%s links %s", folder, dep)
					}
				}
			}
		}
	}
}
