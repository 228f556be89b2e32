package mysql_test

import (
	"fmt"
	"strings"

	"github.com/twostep-mq/twostep/adapters/mysql"
)

// The migrations as SQL, for those who run them by hand. Each records itself.
func ExampleMigrationsSQL() {
	migrations, err := mysql.MigrationsSQL(mysql.Service, mysql.Config{Prefix: "bank_"})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(migrations[0].Name, strings.Contains(migrations[0].SQL, "CREATE TABLE IF NOT EXISTS `bank_outbox`"))
	// Output: 00001_outbox_barrier_parked.sql true
}

// A DSN is the driver's; a service's own pool may be given to NewOutbox as well.
func ExampleOpen() {
	db, err := mysql.Open("bank:secret@tcp(127.0.0.1:3306)/bank")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = db.Close() }()
	_, err = mysql.Open("bank:secret@tcp(127.0.0.1:3306)/")
	fmt.Println(err)
	// Output: mysql: open: the DSN names no database: user:password@tcp(host:port)/database
}
