package mysql

import (
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/twostep-mq/twostep/outbox"
)

// encodeHeaders is what stands in a headers column: a JSON object, or NULL where there are none. It is ASCII, so that it arrives
// unchanged whatever character set the caller's connection has.
func encodeHeaders(headers map[string]string) (sql.NullString, error) {
	if len(headers) == 0 {
		return sql.NullString{}, nil
	}
	text, err := json.Marshal(headers)
	if err != nil {
		return sql.NullString{}, fmt.Errorf("encode headers: %w", err)
	}
	return sql.NullString{String: asciiJSON(text), Valid: true}, nil
}

// asciiJSON escapes what is not ASCII. In JSON text such characters stand within strings only.
func asciiJSON(text []byte) string {
	out := make([]byte, 0, len(text))
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		switch {
		case r < utf8.RuneSelf:
			out = append(out, text[0])
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		text = text[size:]
	}
	return string(out)
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
	rowColumns          = "o.seq, o.id, o.topic, o.`key`, o.gid, o.content_type, o.headers, o.created_at, LENGTH(o.payload), o.payload"
	rowColumnsNoPayload = "o.seq, o.id, o.topic, o.`key`, o.gid, o.content_type, o.headers, o.created_at, LENGTH(o.payload), NULL"
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

// hexList is a JSON array of the values' bytes in hexadecimal, to be bound as one parameter and read with JSON_TABLE and
// UNHEX: one statement for any number of values, each looked up by its bytes.
func hexList(values []string) string {
	b := make([]byte, 0, 2+len(values)*76)
	b = append(b, '[')
	for i, v := range values {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = hex.AppendEncode(b, []byte(v))
		b = append(b, '"')
	}
	return string(append(b, ']'))
}

// numberList is a JSON array of numbers.
func numberList(values []int64) string {
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
