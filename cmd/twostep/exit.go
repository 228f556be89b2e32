package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/twostep-mq/twostep/adapters/api"
	"github.com/twostep-mq/twostep/configs"
)

// Exit codes; docs/reference.md lists them.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitUnreachable = 4
	exitConflict    = 5
)

// usageError is a command line that means nothing.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// exitCode finds the code for a command's error.
func exitCode(err error) int {
	var (
		usage   *usageError
		value   *configs.ValueError
		unknown *configs.UnknownKeyError
		problem *api.Problem
	)
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &usage), errors.As(err, &value), errors.As(err, &unknown):
		return exitUsage
	case errors.Is(err, api.ErrUnreachable):
		return exitUnreachable
	case errors.As(err, &problem):
		switch problem.Code {
		case api.CodeNotFound:
			return exitNotFound
		case api.CodeConflict:
			return exitConflict
		case api.CodeInvalid:
			return exitUsage
		case api.CodeUnavailable:
			return exitUnreachable
		}
	}
	return exitFailure
}

// report prints an error, each of its parts as one line, and returns the exit code.
func report(err error, stderr io.Writer) int {
	if err == nil {
		return exitOK
	}
	for line := range strings.SplitSeq(strings.TrimRight(err.Error(), "\n"), "\n") {
		_, _ = fmt.Fprintln(stderr, "twostep: "+line)
	}
	return exitCode(err)
}
