package ledger

import (
	_ "embed"
	"strings"

	"github.com/twostep-mq/twostep/cmd/internal/database"
)

//go:embed schema_sqlite.sql
var schemaSQLite string

//go:embed schema_postgres.sql
var schemaPostgres string

//go:embed schema_mysql.sql
var schemaMySQL string

// schemaOf lists the statements that make a bank's tables, where they are not there.
func schemaOf(kind database.Kind) (statements []string) {
	schema := map[database.Kind]string{database.SQLite: schemaSQLite, database.Postgres: schemaPostgres, database.MySQL: schemaMySQL}[kind]
	for statement := range strings.SplitSeq(schema, ";\n") {
		if strings.TrimSpace(statement) != "" {
			statements = append(statements, statement)
		}
	}
	return statements
}
