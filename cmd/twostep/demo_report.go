package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/twostep-mq/twostep/cmd/bank/ledger"
)

// demoReport is what a whole run comes to, crashes in between included. docs/reference.md lists the keys.
type demoReport struct {
	Transfers          int      `json:"transfers"`
	Committed          int      `json:"committed"`
	Refused            int      `json:"refused"`
	RolledBack         int      `json:"rolled_back"`
	Credited           int      `json:"credited"`
	DuplicatesAbsorbed int64    `json:"duplicates_absorbed"`
	Retries            int64    `json:"retries"`
	DeadLetters        int      `json:"dead_letters"`
	RelayKills         int64    `json:"relay_kills"`
	MoneyBefore        int64    `json:"money_before"`
	MoneyAfter         int64    `json:"money_after"`
	TransfersPerSecond float64  `json:"transfers_per_second"`
	CommitsPerTransfer float64  `json:"commits_per_transfer"`
	Commits            int64    `json:"commits"`
	Seconds            float64  `json:"seconds"`
	Starts             int      `json:"starts"`
	Seed               uint64   `json:"seed"`
	OK                 bool     `json:"ok"`
	Problems           []string `json:"problems"`
}

func newDemoReport(f *demoFolder, h ledger.History, v ledger.Verdict) demoReport {
	r := demoReport{
		Transfers: len(h.Asked), Committed: v.Committed, Refused: v.Refused, RolledBack: v.RolledBack,
		Credited: v.Credited, DeadLetters: v.DeadLetters, MoneyBefore: v.MoneyBefore, MoneyAfter: v.MoneyAfter,
		DuplicatesAbsorbed: h.Counts[countDuplicates], Retries: h.Counts[countRetries], RelayKills: h.Counts[countRelayKills],
		Commits: h.Counts[countCommits], Seconds: h.Active.Seconds(), Starts: h.Starts, Seed: f.plan.Seed,
		Problems: v.Problems,
	}
	if len(h.Asked) != f.plan.Transfers {
		r.Problems = append(r.Problems, fmt.Sprintf("%d of %d transfers were asked for", len(h.Asked), f.plan.Transfers))
	}
	if r.Problems == nil {
		r.Problems = []string{}
	}
	r.OK = len(r.Problems) == 0
	if r.Seconds > 0 {
		r.TransfersPerSecond = float64(r.Committed) / r.Seconds
	}
	if r.Committed > 0 {
		r.CommitsPerTransfer = float64(r.Commits) / float64(r.Committed)
	}
	return r
}

// maxProblems are printed in an error; --json lists all.
const maxProblems = 10

// failure is the error of a run that does not add up.
func (r *demoReport) failure() error {
	if r.OK {
		return nil
	}
	shown := r.Problems[:min(len(r.Problems), maxProblems)]
	more := ""
	if n := len(r.Problems) - len(shown); n > 0 {
		more = fmt.Sprintf("\nand %d more (--json lists all)", n)
	}
	return fmt.Errorf("demo: it does NOT add up:\n%s%s", strings.Join(shown, "\n"), more)
}

// print writes the table for people.
func (r *demoReport) print(w io.Writer) error {
	rows := [][3]string{
		{"transfers asked for", fmt.Sprint(r.Transfers), ""},
		{"  committed", fmt.Sprint(r.Committed), "debited at bank A together with their message"},
		{"  refused", fmt.Sprint(r.Refused), "not enough money"},
		{"  rolled back", fmt.Sprint(r.RolledBack), "by the sender, after Publish"},
		{"credited", fmt.Sprint(r.Credited), "at bank B, each once"},
		{"dead letters", fmt.Sprint(r.DeadLetters), "the account whose credits always fail"},
		{"duplicates absorbed", fmt.Sprint(r.DuplicatesAbsorbed), "messages delivered again"},
		{"retries", fmt.Sprint(r.Retries), "of the credit handler"},
		{"relay kills", fmt.Sprint(r.RelayKills), "SIGKILL, then a new one"},
		{"starts", fmt.Sprint(r.Starts), "of this demo on its folder"},
		{"money before", fmt.Sprint(r.MoneyBefore), "cents in all accounts"},
		{"money after", fmt.Sprint(r.MoneyAfter), "cents in all accounts and dead letters"},
		{"transfers a second", fmt.Sprintf("%.0f", r.TransfersPerSecond), "with the wait for the killed relay's lease"},
		{"commits a transfer", fmt.Sprintf("%.2f", r.CommitsPerTransfer), "of both databases, everything included"},
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		if _, err := fmt.Fprintln(t, strings.Join(row[:], "\t")); err != nil {
			return fmt.Errorf("print the report: %w", err)
		}
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print the report: %w", err)
	}
	if r.OK {
		if _, err := fmt.Fprintln(w, "\nIt adds up: every committed transfer was executed once or is a dead letter, the others had no effect."); err != nil {
			return fmt.Errorf("print the report: %w", err)
		}
	}
	return nil
}
