package mysql

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/twostep-mq/twostep/outbox/storage"
)

// encodeHeaders is what stands in a headers column: text, or nil. It is ASCII, so that it arrives unchanged whatever character set the caller's
// connection has.
func encodeHeaders(headers map[string]string) (any, error) {
	text, err := storage.EncodeHeaders(headers)
	if err != nil || !text.Valid {
		return nil, err
	}
	return asciiJSON(text.String), nil
}

// asciiJSON escapes what is not ASCII. In JSON text such characters stand within strings only.
func asciiJSON(text string) string {
	out := make([]byte, 0, len(text))
	for len(text) > 0 {
		r, size := utf8.DecodeRuneInString(text)
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

// Columns of an outbox row, in the order storage.Row reads them.
const (
	rowColumns          = "o.seq, o.id, o.topic, o.`key`, o.gid, o.content_type, o.headers, o.created_at, LENGTH(o.payload), o.payload"
	rowColumnsNoPayload = "o.seq, o.id, o.topic, o.`key`, o.gid, o.content_type, o.headers, o.created_at, LENGTH(o.payload), NULL"
)

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
