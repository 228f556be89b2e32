package postgres

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

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

func decodeHeaders(text *string) (map[string]string, error) {
	if text == nil {
		return nil, nil
	}
	var headers map[string]string
	if err := json.Unmarshal([]byte(*text), &headers); err == nil {
		return headers, nil
	}
	// Others write the table, too, and its constraint says no more than "an object". A number or a boolean is taken as its
	// text.
	var loose map[string]json.RawMessage
	if err := json.Unmarshal([]byte(*text), &loose); err != nil {
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

// Columns of an outbox row, in the order readRow reads them.
const (
	rowColumns          = `o.seq, o.id::text, o.topic, o."key", o.gid, o.content_type, o.headers::text, o.created_at, octet_length(o.payload), o.payload`
	rowColumnsNoPayload = `o.seq, o.id::text, o.topic, o."key", o.gid, o.content_type, o.headers::text, o.created_at, octet_length(o.payload), NULL::bytea`
)

func readRow(rows pgx.Rows, outboxUUID string) (outbox.Row, error) {
	var (
		row     outbox.Row
		headers *string
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

// notNil makes of nil, which would be NULL, an empty value.
func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// fromMillis and toMillis keep the zero time zero.
func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

func toMillis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return max(t.UnixMilli(), 0)
}
