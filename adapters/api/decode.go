package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
)

// MaxBody is the largest request body in bytes.
const MaxBody = 1 << 20

// decodeBody reads the request's JSON object into v: unknown fields, trailing data and bodies over MaxBody are refused.
func decodeBody(r *http.Request, v any) error {
	mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || mediaType != "application/json" {
		return &Problem{Code: CodeMediaType, Message: fmt.Sprintf("the body's content type is %q", r.Header.Get("Content-Type")), Hint: "send application/json"}
	}
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return &Problem{Code: CodeTooLarge, Message: fmt.Sprintf("the body is larger than %d bytes", MaxBody)}
		}
		return invalid("", "the body could not be read: %v", err)
	}
	return decodeStrict(string(raw), v)
}

// decodeStrict reads exactly one JSON object without unknown fields.
func decodeStrict(raw string, v any) error {
	if !strings.HasPrefix(strings.TrimLeft(raw, " \t\r\n"), "{") {
		return invalid("", "the body is not a JSON object")
	}
	d := json.NewDecoder(strings.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return invalid("docs/reference.md lists the fields", "the body does not fit: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return invalid("", "the body goes on after its JSON object")
	}
	return nil
}

// query reads the query parameters that a route knows; others, and doubled ones, are refused.
func query(r *http.Request, known ...string) (map[string]string, error) {
	values := map[string]string{}
	for name, given := range r.URL.Query() {
		found := false
		for _, k := range known {
			found = found || k == name
		}
		if !found {
			hint := "it takes none"
			if len(known) > 0 {
				hint = "it takes " + strings.Join(known, ", ")
			}
			return nil, invalid(hint, "this route has no query parameter %q", name)
		}
		if len(given) != 1 {
			return nil, invalid("", "query parameter %q is given %d times", name, len(given))
		}
		values[name] = given[0]
	}
	return values, nil
}
