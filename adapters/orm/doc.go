// Package orm has an example for each of GORM, sqlx, bun and ent: how a service publishes in the ORM's own transaction, and how a handler
// uses the ORM in the transaction that it is given. They are the tests of this module, one file each, and run on SQLite, PostgreSQL,
// MariaDB and MySQL.
//
// Where a line is not enough there is a package: gormtx, sqlxtx, enttx. The module is one of its own, so that nobody else links an ORM.
package orm
