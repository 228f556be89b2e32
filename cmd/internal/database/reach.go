package database

import (
	"errors"
	"fmt"
	"strings"
)

// ErrUnreachable: no server answers. It may come yet.
var ErrUnreachable = errors.New("the database server does not answer")

// unreachableError says which server that is, in one line.
type unreachableError struct{ where, why string }

func unreachable(where, why string) error { return &unreachableError{where, oneLine(why)} }

func (e *unreachableError) Error() string {
	return fmt.Sprintf("%s does not answer (%s): start it, or correct the DSN", e.where, e.why)
}

func (e *unreachableError) Is(target error) bool { return target == ErrUnreachable }

// oneLine joins the lines of a driver's message.
func oneLine(text string) string {
	return strings.Join(strings.Fields(strings.ReplaceAll(text, "\n", "; ")), " ")
}

// lineError is an error whose text is one line, whatever the drivers made of it.
type lineError struct{ err error }

func (e *lineError) Error() string { return oneLine(e.err.Error()) }
func (e *lineError) Unwrap() error { return e.err }

// inOneLine keeps an error, and joins the lines of its text.
func inOneLine(err error) error {
	if err == nil || !strings.Contains(err.Error(), "\n") {
		return err
	}
	return &lineError{err}
}
