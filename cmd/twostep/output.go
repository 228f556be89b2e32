package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/twostep-mq/twostep/adapters/api"
)

// remote is what commands against a server share: where it is and how to print.
type remote struct {
	server string
	json   bool
}

// addFlags defines --server and --json for cmd and all commands below it.
func (r *remote) addFlags(cmd *cobra.Command) {
	cmd.PersistentFlags().StringVar(&r.server, "server", "", "address of the server (TWOSTEP_SERVER; default "+defaultServer+")")
	cmd.PersistentFlags().BoolVar(&r.json, "json", false, "print JSON for programs")
}

const defaultServer = "http://127.0.0.1:36789"

// client connects to --server, else TWOSTEP_SERVER, else the default.
func (r *remote) client(getenv func(string) string) (*api.Client, error) {
	address := r.server
	if address == "" {
		address = getenv("TWOSTEP_SERVER")
	}
	if address == "" {
		address = defaultServer
	}
	c, err := api.NewClient(address)
	if err != nil {
		return nil, usagef("%v", err)
	}
	return c, nil
}

// printJSON writes v for programs.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false) // subjects have a ">"
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("print JSON: %w", err)
	}
	return nil
}

// printTable writes rows below a head, in columns. Control characters of foreign text are shown as spaces, so that none reaches the
// terminal.
func printTable(w io.Writer, head []string, rows [][]string) error {
	if len(rows) == 0 {
		rows = [][]string{{"(none)"}}
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{head}, rows...) {
		clean := make([]string, len(row))
		for i, cell := range row {
			clean[i] = printable(cell)
		}
		if _, err := fmt.Fprintln(t, strings.Join(clean, "\t")); err != nil {
			return fmt.Errorf("print table: %w", err)
		}
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print table: %w", err)
	}
	return nil
}

// printable replaces what could move a cursor or colour a terminal, and shows nothing as a dash.
func printable(s string) string {
	if s == "" {
		return "-"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			return ' '
		}
		return r
	}, s)
}

// age writes a span of milliseconds as people say it: 350ms, 4.2s, 3m10s.
func age(ms int64) string {
	d := time.Duration(ms) * time.Millisecond
	switch {
	case d <= 0:
		return "-"
	case d < time.Second:
		return d.String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// moment writes Unix milliseconds as local time with its zone.
func moment(ms int64) string {
	if ms == 0 {
		return "-"
	}
	return time.UnixMilli(ms).Format("2006-01-02 15:04:05 -07:00")
}

// warnUnreachable tells on stderr whose rows are missing in a listing.
func warnUnreachable(cmd *cobra.Command, list []api.Unreachable) {
	for _, u := range list {
		_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "twostep: %s %s (%s) did not answer, what it holds is missing here: %s\n", u.Kind, printable(u.Name), u.ID, u.Reason)
	}
}
