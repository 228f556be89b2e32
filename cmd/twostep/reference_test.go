package main

import (
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/twostep-mq/twostep/adapters/api"
	"github.com/twostep-mq/twostep/adapters/sqlite"
	"github.com/twostep-mq/twostep/adapters/telemetry"
	"github.com/twostep-mq/twostep/cmd/internal/database"
	"github.com/twostep-mq/twostep/configs"
	"github.com/twostep-mq/twostep/outbox"
)

// referenceSection is the text below a heading of docs/reference.md, up to the next heading of its rank.
func referenceSection(t *testing.T, heading string) string {
	t.Helper()
	raw, err := os.ReadFile("../../docs/reference.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, found := strings.Cut(string(raw), "\n"+heading+"\n")
	if !found {
		t.Fatalf("docs/reference.md has no %q", heading)
	}
	rank, _, _ := strings.Cut(heading, " ")
	section, _, _ := strings.Cut(after, "\n"+rank+" ")
	return section
}

// referenceTable are the rows of the first table of a section, cell by cell, without its head.
func referenceTable(t *testing.T, section string) [][]string {
	t.Helper()
	var rows [][]string
	for line := range strings.SplitSeq(section, "\n") {
		if !strings.HasPrefix(line, "|") {
			if len(rows) > 0 {
				break
			}
			continue
		}
		rows = append(rows, strings.Split(strings.Trim(line, "|"), "|"))
	}
	if len(rows) < 3 {
		t.Fatalf("no table in %q", section)
	}
	return rows[2:]
}

// named are all names in backticks.
func named(text string) (names []string) {
	for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(text, -1) {
		names = append(names, m[1])
	}
	return names
}

// sameNames compares what the reference lists with what the code has.
func sameNames(t *testing.T, what string, documented, actual []string) {
	t.Helper()
	if len(actual) == 0 {
		t.Errorf("%s: the code has none", what)
	}
	for _, name := range actual {
		if !slices.Contains(documented, name) {
			t.Errorf("%s: docs/reference.md lacks %s", what, name)
		}
	}
	for _, name := range documented {
		if !slices.Contains(actual, name) {
			t.Errorf("%s: docs/reference.md has %s, the code has not", what, name)
		}
	}
}

// The tables are those of the migrations, and every column is named beside its table.
func TestReferenceTables(t *testing.T) {
	t.Parallel()
	db, err := sqlite.Open(filepath.Join(t.TempDir(), "all.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	for _, set := range []sqlite.Set{sqlite.Service, sqlite.Orchestrator} {
		if err := sqlite.Migrate(t.Context(), db, set); err != nil {
			t.Fatal(err)
		}
	}
	rows, err := db.QueryContext(t.Context(), `SELECT t.name, c.name FROM sqlite_master t JOIN pragma_table_info(t.name) c
WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%'`)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	columns := map[string][]string{}
	for rows.Next() {
		var table, column string
		if err := rows.Scan(&table, &column); err != nil {
			t.Fatal(err)
		}
		columns[table] = append(columns[table], column)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	section := referenceSection(t, "## Tables")
	section = withoutDomains(t, section)
	documented := []string{}
	for _, name := range named(section) {
		if strings.HasPrefix(name, "twostep_") && name != "twostep_" {
			documented = append(documented, name)
		}
	}
	sameNames(t, "tables", documented, slices.Collect(maps.Keys(columns)))
	for table, list := range columns {
		if strings.HasPrefix(table, "twostep_migration_") {
			continue // the migration library's own
		}
		// Up to the next table: its columns stand in between.
		_, text, _ := strings.Cut(section, "`"+table+"`")
		if next := regexp.MustCompile("`twostep_").FindStringIndex(text); next != nil {
			text = text[:next[0]]
		}
		for _, column := range list {
			if column == "one" { // keeps the table to one row
				continue
			}
			if !slices.Contains(named(text), column) {
				t.Errorf("docs/reference.md lacks column %s of %s", column, table)
			}
		}
	}
}

// withoutDomains takes the sentence on PostgreSQL's domains out of the section on tables. Their names are those of its migrations.
func withoutDomains(t *testing.T, section string) string {
	t.Helper()
	list, err := database.Migrations(database.Config{Kind: database.Postgres}, database.Service)
	if err != nil {
		t.Fatal(err)
	}
	actual := []string{}
	for _, m := range list {
		for _, match := range regexp.MustCompile(`CREATE DOMAIN "?(\w+)"?`).FindAllStringSubmatch(m.SQL, -1) {
			actual = append(actual, match[1])
		}
	}
	before, after, _ := strings.Cut(section, "have domains that check them:")
	sentence, after, _ := strings.Cut(after, ".\n")
	if len(actual) > 0 {
		sameNames(t, "domains", named(sentence), actual)
	}
	return before + after
}

// constants are the string constants of a package whose names begin with prefix.
func constants(t *testing.T, folder, prefix string) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok {
				return true
			}
			for i, name := range spec.Names {
				if !strings.HasPrefix(name.Name, prefix) || i >= len(spec.Values) {
					continue
				}
				if literal, ok := spec.Values[i].(*ast.BasicLit); ok && literal.Kind == token.STRING {
					if found[name.Name], err = strconv.Unquote(literal.Value); err != nil {
						t.Fatal(err)
					}
				}
			}
			return true
		})
	}
	return found
}

// Keys of the broker's state and names of inboxes, with <…> for what varies.
func TestReferenceStateKeysAndInboxes(t *testing.T) {
	t.Parallel()
	section := referenceSection(t, "## Broker names (NATS)")
	line := func(begin string) string {
		_, after, found := strings.Cut(section, "\n"+begin)
		if !found {
			t.Fatalf("docs/reference.md has no line %q", begin)
		}
		text, _, _ := strings.Cut(after, "\n")
		return text
	}
	fixed := []string{}
	for _, name := range named(line("State keys:")) {
		name, _, _ = strings.Cut(name, "<")
		fixed = append(fixed, name)
	}
	sameNames(t, "state keys", fixed, slices.Collect(maps.Values(constants(t, "../../outbox", "State"))))
	inboxes, _, _ := strings.Cut(line("Inboxes:"), "Requests:")
	sameNames(t, "inboxes", named(inboxes), []string{outbox.Inbox("<uuid>"), outbox.SubscriptionInbox("<uid>")})
}

func TestReferenceRoutes(t *testing.T) {
	t.Parallel()
	section := referenceSection(t, "## HTTP routes")
	documented := []string{}
	for _, row := range referenceTable(t, section) {
		documented = append(documented, named(row[0])...)
	}
	routes := []string{"GET /metrics"}
	for _, r := range api.Routes() {
		routes = append(routes, r.Method+" "+strings.TrimPrefix(r.Path, api.Prefix))
	}
	sameNames(t, "routes", documented, routes)

	_, after, _ := strings.Cut(section, "An error is ")
	codes := []string{}
	for _, row := range referenceTable(t, after) {
		codes = append(codes, named(row[0])...)
	}
	sameNames(t, "error codes", codes, slices.Collect(maps.Values(constants(t, "../../adapters/api", "Code"))))
}

// Every field of every listing stands in the paragraph of its name.
func TestReferenceJSON(t *testing.T) {
	t.Parallel()
	section := referenceSection(t, "## JSON of the listings")
	for paragraph, types := range map[string][]any{
		"topic": {api.Topic{}}, "subscription": {api.Subscription{}}, "outbox": {api.Outbox{}, api.Waiting{}},
		"transactions": {api.TransactionList{}, api.Transaction{}}, "parked": {api.DeadLetter{}}, "unreachable": {api.Unreachable{}},
		"health": {api.Health{}},
	} {
		_, text, found := strings.Cut(section, "**"+paragraph+"**")
		if !found {
			t.Errorf("docs/reference.md has no paragraph %s", paragraph)
		}
		text, _, _ = strings.Cut(text, "\n\n")
		for _, of := range types {
			for _, field := range reflect.VisibleFields(reflect.TypeOf(of)) {
				name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
				if strings.Contains(options, "omitempty") {
					if !strings.Contains(text, "`"+name+"`*") {
						t.Errorf("%s: docs/reference.md lacks %s, or its *", paragraph, name)
					}
				} else if !strings.Contains(text, "`"+name+"`") {
					t.Errorf("%s: docs/reference.md lacks %s", paragraph, name)
				}
			}
		}
	}
}

// Every metric with its labels, as a scrape shows them.
func TestReferenceMetrics(t *testing.T) {
	t.Parallel()
	m, err := telemetry.New(telemetry.Config{Version: "v", Reports: func(context.Context) ([]outbox.Report, error) {
		return []outbox.Report{{Outbox: "u", Name: "n", WaitingFor: map[string]int64{"broker": 1}}}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	m.Requests(http.NotFoundHandler()).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
	scraped := httptest.NewRecorder()
	m.Handler().ServeHTTP(scraped, httptest.NewRequest(http.MethodGet, "/metrics", nil))

	actual := map[string][]string{}
	sample := regexp.MustCompile(`^(twostep_\w+?)(?:_bucket|_sum|_count)?(?:\{(.*)\})? `)
	label := regexp.MustCompile(`(\w+)="[^"]*"`)
	for line := range strings.SplitSeq(scraped.Body.String(), "\n") {
		match := sample.FindStringSubmatch(line)
		if match == nil {
			continue
		}
		labels := []string{}
		for _, l := range label.FindAllStringSubmatch(match[2], -1) {
			if l[1] != "le" { // of histograms
				labels = append(labels, l[1])
			}
		}
		slices.Sort(labels)
		actual[match[1]] = labels
	}
	documented := map[string][]string{}
	for _, row := range referenceTable(t, referenceSection(t, "## Metrics")) {
		labels := named(row[1])
		slices.Sort(labels)
		documented[named(row[0])[0]] = labels
	}
	sameNames(t, "metrics", slices.Collect(maps.Keys(documented)), slices.Collect(maps.Keys(actual)))
	for name, labels := range actual {
		if !slices.Equal(labels, documented[name]) {
			t.Errorf("%s has the labels %q, docs/reference.md says %q", name, labels, documented[name])
		}
	}
}

// Every configuration key with its default.
func TestReferenceConfiguration(t *testing.T) {
	t.Parallel()
	documented := map[string]string{}
	for _, row := range referenceTable(t, referenceSection(t, "## Configuration")) {
		documented[named(row[0])[0]] = strings.Join(named(row[1]), " ")
	}
	defaults := configs.Defaults()
	keys := []string{}
	for _, k := range defaults.Keys() {
		keys = append(keys, k.Name)
		if value, ok := documented[k.Name]; ok && !k.Secret && value != k.Value() {
			t.Errorf("%s is %q by default, docs/reference.md says %q", k.Name, k.Value(), value)
		}
	}
	sameNames(t, "configuration keys", slices.Collect(maps.Keys(documented)), keys)
}

func TestReferenceDataFolder(t *testing.T) {
	t.Parallel()
	documented := []string{}
	for _, row := range referenceTable(t, referenceSection(t, "## Files of the data folder")) {
		documented = append(documented, strings.TrimSuffix(named(row[0])[0], "/"))
	}
	sameNames(t, "files of the data folder", documented, []string{lockFile, serverDatabase, brokerFolder, credentialFile})
}
