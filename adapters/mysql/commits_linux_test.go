package mysql_test

import (
	"testing"

	"github.com/twostep-mq/twostep/adapters/mysql"
)

// TestCommits counts a known number, on a server where nobody else commits.
func TestCommits(t *testing.T) { onEachServer(t, testCommits) }

func testCommits(t *testing.T, on testServer) {
	s := on.startOwn(t)
	db := openDSN(t, s.dsn.FormatDSN())
	db.SetMaxOpenConns(1)
	execAll(t, db, "CREATE TABLE n (id INT PRIMARY KEY, n INT NOT NULL) ENGINE = InnoDB", "INSERT INTO n VALUES (1, 0), (2, 0)")
	commits := func() int64 {
		n, err := mysql.Commits(t.Context(), db)
		noError(t, err)
		return n
	}
	const times = 50
	for _, c := range []struct {
		name string
		want int64
		run  []string
	}{
		{"autocommit", times, []string{"UPDATE n SET n = n + 1 WHERE id = 1"}},
		{"two updates and a savepoint", times, []string{
			"BEGIN", "SAVEPOINT a", "UPDATE n SET n = n + 1 WHERE id = 1", "RELEASE SAVEPOINT a", "UPDATE n SET n = n + 1 WHERE id = 2", "COMMIT",
		}},
		{"locks only", 0, []string{"BEGIN", "SELECT n FROM n WHERE id = 1 FOR UPDATE", "COMMIT"}},
		{"reads only", 0, []string{"SELECT n FROM n WHERE id = 1", "BEGIN", "SELECT n FROM n", "COMMIT"}},
		{"changes nothing", 0, []string{"UPDATE n SET n = n WHERE id = 1"}},
	} {
		before := commits()
		for range times {
			execAll(t, db, c.run...)
		}
		// MySQL writes its own statistics in the background.
		got, spare := commits()-before, map[testServer]int64{mariaDB: 0, mySQL: 3}[on]
		if got < c.want || got > c.want+spare {
			t.Errorf("%s: %d commits counted, want %d", c.name, got, c.want)
		}
	}
}
