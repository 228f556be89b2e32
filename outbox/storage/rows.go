package storage

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/twostep-mq/twostep/outbox"
)

// Scanner is a row that was read: *sql.Rows, *sql.Row, or another driver's.
type Scanner interface {
	Scan(dest ...any) error
}

// Row reads a row of the table outbox: seq, id, topic, key, gid, content_type, headers, created_at, the payload's length, payload (NULL
// where it is not wanted).
func Row(from Scanner, outboxUUID string) (outbox.Row, error) {
	var (
		row     outbox.Row
		headers sql.NullString
		created int64
	)
	m := &row.Message
	if err := from.Scan(&row.Seq, &m.ID, &m.Topic, &m.Key, &m.GID, &m.ContentType, &headers, &created, &row.Size, &m.Payload); err != nil {
		return outbox.Row{}, err
	}
	var err error
	if m.Headers, err = DecodeHeaders(headers); err != nil {
		return outbox.Row{}, fmt.Errorf("row %d: %w", row.Seq, err)
	}
	if m.GID == "" {
		m.GID = m.ID
	}
	m.Time = time.UnixMilli(created).UTC()
	m.Outbox, m.Seq = outboxUUID, row.Seq
	return row, nil
}

// Rows are rows being read: *sql.Rows, or another driver's.
type Rows interface {
	Scanner
	Next() bool
}

// Page reads rows, with Row's columns, into a page until the page is full; the caller closes them.
func Page(from Rows, outboxUUID string, into *outbox.Page) error {
	for size := 0; from.Next(); {
		if size >= outbox.PageBytes {
			into.Cut = true
			return nil
		}
		row, err := Row(from, outboxUUID)
		if err != nil {
			return err
		}
		size += len(row.Payload)
		into.Rows = append(into.Rows, row)
	}
	return nil
}

// Topic reads a row of the table outbox_topic: name, delivery, no_subscribers, keyed, version, deleted.
func Topic(from Scanner) (t outbox.RegistryTopic, err error) {
	err = from.Scan(&t.Name, &t.Delivery, &t.NoSubscribers, &t.Keyed, &t.Version, &t.Deleted)
	return t, err
}

// Bits reads a row of the table outbox_confirmer: confirmer, topic, name, created_at, removed, bitmap, cursor, digest.
func Bits(from Scanner) (outbox.Bits, error) {
	var (
		b      outbox.Bits
		sub    outbox.RegistrySubscription
		digest int64
	)
	if err := from.Scan(&b.Confirmer, &sub.Topic, &sub.Name, &sub.Created, &sub.Removed, &b.Bitmap, &b.Cursor, &digest); err != nil {
		return outbox.Bits{}, err
	}
	b.Digest = uint64(digest)
	if b.Confirmer != outbox.BrokerConfirmer {
		sub.UID = b.Confirmer
		b.Subscription = sub
	}
	return b, nil
}

// Time is a column of Unix milliseconds; 0 is the zero time.
func Time(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// Millis is Time's reverse.
func Millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return max(t.UnixMilli(), 0)
}

// Querier is a *sql.DB, a *sql.Conn or a *sql.Tx.
type Querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// Query reads all rows that a query finds.
func Query[T any](ctx context.Context, db Querier, read func(Scanner) (T, error), query string, args ...any) (all []T, err error) {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		one, err := read(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, rows.Err()
}
