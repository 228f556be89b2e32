package database

import (
	"strings"
	"testing"
)

func TestSQL(t *testing.T) {
	t.Parallel()
	const statement = "UPDATE account SET balance = balance - ? WHERE id = ? AND balance >= ?"
	for kind, want := range map[Kind]string{
		SQLite: statement, MySQL: statement,
		Postgres: "UPDATE account SET balance = balance - $1 WHERE id = $2 AND balance >= $3",
	} {
		if got := (&Database{Kind: kind}).SQL(statement); got != want {
			t.Errorf("%s: %s", kind, got)
		}
	}
}

// What cannot be an identifier never gets into a statement.
func TestNamesOfDatabases(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "a b", "a`b", `a"b`, "Ab", "1a", "a-b", "a;drop", strings.Repeat("a", 64)} {
		for _, do := range []error{Create(t.Context(), Config{Kind: Postgres, Name: name}), Drop(t.Context(), Config{Kind: MySQL, Name: name})} {
			if do == nil || !strings.Contains(do.Error(), "use a small letter") {
				t.Errorf("%q: %v", name, do)
			}
		}
	}
}

// A DSN that does not parse may be a password for the most part.
func TestErrorsDoNotRepeatTheDSN(t *testing.T) {
	t.Parallel()
	for _, c := range []Config{
		{Kind: Postgres, DSN: "postgres://u:hunter2@h:port/d"}, {Kind: Postgres, DSN: "hunter2"}, {Kind: Postgres, DSN: "password='hunter2"},
		{Kind: MySQL, DSN: "u:hunter2@h/d"}, {Kind: MySQL, DSN: "hunter2"}, {Kind: MySQL, DSN: "u:p@hunter2(h:1)/d"}, {Kind: MySQL, DSN: "u:p@tcp(h:1)/d?hunter2=%zz"},
		{Kind: SQLite, DSN: "postgres://u:hunter2@h/d"}, {Kind: SQLite, DSN: "u:hunter2@tcp(h:1)/d"},
		{Kind: "hunter", DSN: "hunter2"},
	} {
		_, err := Open(t.Context(), c)
		if err == nil || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", c.Kind, err)
		}
	}
}

func TestMigrationsNeedNoDatabase(t *testing.T) {
	t.Parallel()
	for _, kind := range Kinds() {
		for _, set := range []Set{Service, Orchestrator} {
			list, err := Migrations(Config{Kind: kind}, set)
			if err != nil || len(list) == 0 || !strings.Contains(list[0].SQL, "CREATE TABLE") {
				t.Errorf("%s, %s: %d migrations, %v", kind, set, len(list), err)
			}
		}
	}
}
