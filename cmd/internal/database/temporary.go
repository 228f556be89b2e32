package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
)

// nameForm is what the name of a database made here may be: it stands in statements, where no argument can.
var nameForm = regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`)

// Create makes the database c.Name on the server that the DSN leads to, if it is not there.
func Create(ctx context.Context, c Config) error {
	return onServer(ctx, c, "create", adapter.create)
}

// Drop drops the database c.Name with everything in it, if it is there, whoever is connected.
func Drop(ctx context.Context, c Config) error {
	return onServer(ctx, c, "drop", adapter.drop)
}

// onServer does something about a database from another one, the DSN's own.
func onServer(ctx context.Context, c Config, what string, do func(adapter, context.Context, *sql.DB, string) error) (err error) {
	name := c.Name
	if !nameForm.MatchString(name) {
		return fmt.Errorf("%s database %q: use a small letter, then small letters, digits and _", what, name)
	}
	c.Name = ""
	d, err := Open(ctx, c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if err := do(d.adapter, ctx, d.DB, name); err != nil {
		return fmt.Errorf("%s database %s on %s: %w", what, name, d.Where(), inOneLine(err))
	}
	return nil
}
