package sqlite

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Columns of an outbox row, in the order storage.Row reads them.
const (
	rowColumns          = `o.seq, o.id, o.topic, o."key", o.gid, o.content_type, o.headers, o.created_at, octet_length(o.payload), o.payload`
	rowColumnsNoPayload = `o.seq, o.id, o.topic, o."key", o.gid, o.content_type, o.headers, o.created_at, octet_length(o.payload), NULL`
)

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
