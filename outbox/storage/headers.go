// Package storage is for those who write a database adapter: what the columns of twostep's tables hold, which is the same in every
// database, and what follows from rows whatever database they were read from. SQL belongs to the adapters.
package storage

import (
	"database/sql"
	"encoding/json"
	"fmt"
)

// EncodeHeaders is what stands in a headers column: a JSON object, or NULL where there are none.
func EncodeHeaders(headers map[string]string) (sql.NullString, error) {
	if len(headers) == 0 {
		return sql.NullString{}, nil
	}
	text, err := json.Marshal(headers)
	if err != nil {
		return sql.NullString{}, fmt.Errorf("encode headers: %w", err)
	}
	return sql.NullString{String: string(text), Valid: true}, nil
}

// DecodeHeaders reads a headers column.
func DecodeHeaders(text sql.NullString) (map[string]string, error) {
	if !text.Valid {
		return nil, nil
	}
	var headers map[string]string
	if err := json.Unmarshal([]byte(text.String), &headers); err == nil {
		return headers, nil
	}
	// Others write the table, too, and its constraint says no more than "an object". A number or a boolean is taken as its text.
	var loose map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text.String), &loose); err != nil {
		return nil, fmt.Errorf("decode headers: %w", err)
	}
	headers = make(map[string]string, len(loose))
	for name, raw := range loose {
		var value string
		if json.Unmarshal(raw, &value) != nil {
			value = string(raw)
		}
		headers[name] = value
	}
	return headers, nil
}
