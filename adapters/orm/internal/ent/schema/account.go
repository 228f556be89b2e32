// Package schema has the ent schema of the example bank.
package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/dialect/entsql"
	"entgo.io/ent/schema"
	"entgo.io/ent/schema/field"
)

// Account of a bank.
type Account struct{ ent.Schema }

// Fields of an account: its name is its id.
func (Account) Fields() []ent.Field {
	return []ent.Field{
		field.String("id").StorageKey("name"),
		field.Int("balance"),
	}
}

// Annotations name the table, which the other examples use, too.
func (Account) Annotations() []schema.Annotation {
	return []schema.Annotation{entsql.Annotation{Table: "account"}}
}
