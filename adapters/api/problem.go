package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
)

// Codes of problems. A client decides by the code; the message is for people.
const (
	CodeInvalid     = "invalid"
	CodeNotFound    = "not_found"
	CodeConflict    = "conflict"
	CodeTooLarge    = "too_large"
	CodeForbidden   = "forbidden"
	CodeMethod      = "method_not_allowed"
	CodeMediaType   = "unsupported_media_type"
	CodeUnavailable = "unavailable"
	CodeInternal    = "internal"
)

// Problem is the answer to a request that could not be served. On the wire it stands below "error".
//
//nolint:errname // it is what RFC 9457 calls it, and clients read it as data
type Problem struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	// Hint is the next step, if there is one to name.
	Hint string `json:"hint,omitempty"`
}

func (p *Problem) Error() string {
	if p.Hint == "" {
		return p.Message
	}
	return p.Message + ": " + p.Hint
}

// status is the HTTP status of the code.
func (p *Problem) status() int {
	switch p.Code {
	case CodeInvalid:
		return http.StatusBadRequest
	case CodeNotFound:
		return http.StatusNotFound
	case CodeConflict:
		return http.StatusConflict
	case CodeTooLarge:
		return http.StatusRequestEntityTooLarge
	case CodeForbidden:
		return http.StatusForbidden
	case CodeMethod:
		return http.StatusMethodNotAllowed
	case CodeMediaType:
		return http.StatusUnsupportedMediaType
	case CodeUnavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

func invalid(hint, format string, args ...any) *Problem {
	return &Problem{Code: CodeInvalid, Message: fmt.Sprintf(format, args...), Hint: hint}
}

func notFound(hint, format string, args ...any) *Problem {
	return &Problem{Code: CodeNotFound, Message: fmt.Sprintf(format, args...), Hint: hint}
}

// problemBody is a Problem on the wire.
type problemBody struct {
	Error *Problem `json:"error"`
}

// asProblem finds the problem in an error; what is none is internal, and its text stays in the server's log.
func asProblem(err error) *Problem {
	var p *Problem
	if errors.As(err, &p) {
		return p
	}
	return &Problem{Code: CodeInternal, Message: "the server failed to answer", Hint: "look for this request in the server's log"}
}

// writeJSON writes one JSON answer. A client that has gone away is no error of ours.
func writeJSON(w http.ResponseWriter, status int, body any) {
	raw, err := json.Marshal(body)
	if err != nil { // only for a type of ours that cannot be written at all
		status, raw = http.StatusInternalServerError, []byte(`{"error":{"code":"internal","message":"the answer could not be written"}}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(raw, '\n'))
}
