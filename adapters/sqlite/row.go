package sqlite

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/twostep-mq/twostep/outbox"
)

// encodeHeaders is what stands in a headers column: a JSON object, or NULL where there are none.
func encodeHeaders(headers map[string]string) (sql.NullString, error) {
	if len(headers) == 0 {
		return sql.NullString{}, nil
	}
	text, err := json.Marshal(headers)
	if err != nil {
		return sql.NullString{}, fmt.Errorf("encode headers: %w", err)
	}
	return sql.NullString{String: string(text), Valid: true}, nil
}

func decodeHeaders(text sql.NullString) (map[string]string, error) {
	if !text.Valid {
		return nil, nil
	}
	var headers map[string]string
	if err := json.Unmarshal([]byte(text.String), &headers); err == nil {
		return headers, nil
	}
	// Others write the table, too, and its constraint says no more than "an object". A number or a boolean is taken as
	// its text.
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

// Columns of an outbox row, in the order scanRow reads them.
const (
	rowColumns          = `o.seq, o.id, o.topic, o."key", o.gid, o.content_type, o.headers, o.created_at, octet_length(o.payload), o.payload`
	rowColumnsNoPayload = `o.seq, o.id, o.topic, o."key", o.gid, o.content_type, o.headers, o.created_at, octet_length(o.payload), NULL`
)

func scanRow(rows *sql.Rows, outboxUUID string) (outbox.Row, error) {
	var (
		row     outbox.Row
		headers sql.NullString
		created int64
	)
	m := &row.Message
	if err := rows.Scan(&row.Seq, &m.ID, &m.Topic, &m.Key, &m.GID, &m.ContentType, &headers, &created, &row.Size, &m.Payload); err != nil {
		return outbox.Row{}, err
	}
	var err error
	if m.Headers, err = decodeHeaders(headers); err != nil {
		return outbox.Row{}, fmt.Errorf("row %d: %w", row.Seq, err)
	}
	if m.GID == "" {
		m.GID = m.ID
	}
	m.Time = time.UnixMilli(created).UTC()
	m.Outbox, m.Seq = outboxUUID, row.Seq
	return row, nil
}

// jsonStrings is a JSON array of strings, to be bound as one parameter and read with json_each: one statement for
// any number of values.
func jsonStrings(values []string) (string, error) {
	b := make([]byte, 0, 2+len(values)*40)
	b = append(b, '[')
	for i, v := range values {
		if i > 0 {
			b = append(b, ',')
		}
		if plainJSON(v) {
			b = append(append(append(b, '"'), v...), '"')
			continue
		}
		// What JSON cannot carry unchanged would be taken for another key.
		if !utf8.ValidString(v) || strings.ContainsRune(v, 0) {
			return "", fmt.Errorf("%q is not valid UTF-8 text", v)
		}
		quoted, err := json.Marshal(v)
		if err != nil {
			return "", err
		}
		b = append(b, quoted...)
	}
	return string(append(b, ']')), nil
}

func plainJSON(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c >= 0x7f || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

func jsonInts(values []int64) string {
	b := make([]byte, 0, 2+len(values)*12)
	b = append(b, '[')
	for i, v := range values {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, v, 10)
	}
	return string(append(b, ']'))
}
