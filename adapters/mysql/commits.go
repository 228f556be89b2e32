package mysql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

const (
	// commitCounter counts, in InnoDB, transactions that have written rows, when they end.
	//
	// What else the servers count: Com_commit misses autocommit; Handler_commit also counts statements and transactions that only read
	// (41 for 20 writing ones); trx_rw_commits also those that locked or changed nothing. This one was right for autocommit,
	// several statements, savepoints, locking reads and updates that change nothing, on MariaDB 10.11 and MySQL 9.7.
	commitCounter = "trx_commits_insert_update"

	readCommits = "SELECT COUNT, TIME_ENABLED IS NOT NULL AND (TIME_DISABLED IS NULL OR TIME_DISABLED < TIME_ENABLED) " +
		"FROM information_schema.INNODB_METRICS WHERE NAME = '" + commitCounter + "'"
)

// Commits is how many transactions that write have committed on the whole server, for measuring: the difference of two calls counts what
// was made durable between them. Those rolled back after they wrote count, too. MySQL adds a few of its own in the background.
//
// The server counts while it is told to, which the first call does (it needs SUPER, or SYSTEM_VARIABLES_ADMIN on MySQL) and nobody
// undoes; reading needs PROCESS. A restart begins at 0.
func Commits(ctx context.Context, db *sql.DB) (int64, error) {
	var n int64
	for range 2 {
		var on bool
		err := db.QueryRowContext(ctx, readCommits).Scan(&n, &on)
		if errors.Is(err, sql.ErrNoRows) {
			return 0, fmt.Errorf("mysql: count commits: the server has no counter %s in information_schema.INNODB_METRICS", commitCounter)
		}
		if err != nil {
			return 0, explain("count commits (it needs the PROCESS right)", err)
		}
		if on {
			return n, nil
		}
		if _, err := db.ExecContext(ctx, "SET GLOBAL innodb_monitor_enable = '"+commitCounter+"'"); err != nil {
			return 0, explain("switch the counter of commits on (it needs SUPER or SYSTEM_VARIABLES_ADMIN)", err)
		}
	}
	return n, nil
}
