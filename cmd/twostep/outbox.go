package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/twostep-mq/twostep/adapters/api"
)

func newOutboxCommand() *cobra.Command {
	var to remote
	cmd := &cobra.Command{
		Use:     "outbox",
		Short:   "List outboxes by their relays' reports",
		Example: "  twostep outbox list\n  twostep outbox stuck --json",
	}
	to.addFlags(cmd)
	return group(cmd,
		newOutboxListing(&to, "list", "List every outbox: backlog, oldest row, owner, who is waited for", false),
		newOutboxListing(&to, "stuck", "List the outboxes that somebody should look at, with the reason", true),
		newOutboxForget(&to))
}

func newOutboxListing(to *remote, use, short string, onlyStuck bool) *cobra.Command {
	return &cobra.Command{
		Use:     use,
		Short:   short,
		Example: "  twostep outbox " + use,
		Args:    args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := to.client(os.Getenv)
			if err != nil {
				return err
			}
			list, err := c.Outboxes(cmd.Context(), onlyStuck)
			if err != nil {
				return err
			}
			if to.json {
				return printJSON(cmd.OutOrStdout(), list)
			}
			if onlyStuck {
				return printStuck(cmd, list)
			}
			rows := [][]string{}
			for _, o := range list.Outboxes {
				rows = append(rows, []string{o.Name, o.UUID, strconv.FormatInt(o.Backlog, 10), strconv.FormatInt(o.Unpublished, 10), age(o.OldestAgeMS),
					o.Relay, age(o.ReportAgeMS), waitingFor(o), strconv.FormatBool(o.Stuck)})
			}
			return printTable(cmd.OutOrStdout(), []string{"OUTBOX", "UUID", "BACKLOG", "UNPUBLISHED", "OLDEST", "RELAY", "REPORTED", "WAITING FOR", "STUCK"}, rows)
		},
	}
}

func printStuck(cmd *cobra.Command, list api.OutboxList) error {
	rows := [][]string{}
	for _, o := range list.Outboxes {
		rows = append(rows, []string{o.Name, o.UUID, strconv.FormatInt(o.Backlog, 10), age(o.OldestAgeMS), o.Reason})
	}
	return printTable(cmd.OutOrStdout(), []string{"OUTBOX", "UUID", "BACKLOG", "OLDEST", "REASON"}, rows)
}

// waitingFor names the three confirmers that most rows lack.
func waitingFor(o api.Outbox) string {
	var parts []string
	for i, w := range o.WaitingFor {
		if i == 3 {
			parts = append(parts, fmt.Sprintf("and %d more", len(o.WaitingFor)-i))
			break
		}
		name := w.Subscription
		if name == "" {
			name = w.Confirmer
		}
		parts = append(parts, fmt.Sprintf("%s (%d)", name, w.Rows))
	}
	return strings.Join(parts, ", ")
}

func newOutboxForget(to *remote) *cobra.Command {
	return &cobra.Command{
		Use:   "forget UUID",
		Short: "Forget an outbox that is gone for good",
		Long: `Forget an outbox that is gone for good with its database. Subscriptions no longer wait for it to become active.
Rows that it still held are lost with it: forget no outbox that may come back.`,
		Example: "  twostep outbox forget 6f0c2d6e-6c1d-4bb0-9d7a-3c1f2f1e8a11",
		Args:    args("UUID"),
		RunE: func(cmd *cobra.Command, given []string) error {
			c, err := to.client(os.Getenv)
			if err != nil {
				return err
			}
			if err := c.ForgetOutbox(cmd.Context(), given[0]); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "outbox %s is forgotten\n", given[0])
			return err
		},
	}
}
