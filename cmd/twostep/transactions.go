package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/twostep-mq/twostep/adapters/api"
)

func newTransactionsCommand() *cobra.Command {
	var to remote
	cmd := &cobra.Command{
		Use:     "transactions",
		Short:   "Look at what is not done: not released, or parked",
		Example: "  twostep transactions list --topic bank.trans-in\n  twostep transactions show order-4711",
	}
	to.addFlags(cmd)
	return group(cmd, newTransactionsList(&to), newTransactionsShow(&to))
}

func newTransactionsList(to *remote) *cobra.Command {
	var (
		topic string
		limit int
	)
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List messages that are not released or are parked, oldest first",
		Example: "  twostep transactions list --limit 20",
		Args:    args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := to.client(os.Getenv)
			if err != nil {
				return err
			}
			list, err := c.Transactions(cmd.Context(), topic, limit)
			if err != nil {
				return err
			}
			return printTransactions(cmd, to, list)
		},
	}
	cmd.Flags().StringVar(&topic, "topic", "", "of this topic only")
	cmd.Flags().IntVar(&limit, "limit", 100, "at most so many (1 to 500)")
	return cmd
}

func newTransactionsShow(to *remote) *cobra.Command {
	return &cobra.Command{
		Use:     "show GID",
		Short:   "Show the messages of one global transaction that are not done",
		Example: "  twostep transactions show order-4711 --json",
		Args:    args("GID"),
		RunE: func(cmd *cobra.Command, given []string) error {
			c, err := to.client(os.Getenv)
			if err != nil {
				return err
			}
			list, err := c.Transaction(cmd.Context(), given[0])
			if err != nil {
				return err
			}
			return printTransactions(cmd, to, list)
		},
	}
}

func printTransactions(cmd *cobra.Command, to *remote, list api.TransactionList) error {
	warnUnreachable(cmd, list.Unreachable)
	if to.json {
		return printJSON(cmd.OutOrStdout(), list)
	}
	now := time.Now().UnixMilli()
	rows := [][]string{}
	for _, t := range list.Transactions {
		rows = append(rows, []string{t.GID, t.Topic, t.Key, t.State, age(now - t.CreatedAtMS), strings.Join(t.WaitingFor, ", "), parkedAt(t)})
	}
	if err := printTable(cmd.OutOrStdout(), []string{"GID", "TOPIC", "KEY", "STATE", "AGE", "WAITING FOR", "PARKED"}, rows); err != nil {
		return err
	}
	if list.Truncated {
		_, err := fmt.Fprintln(cmd.ErrOrStderr(), "twostep: there are more: raise --limit (at most 500), or name a --topic")
		return err
	}
	return nil
}

// parkedAt says where a message is parked and why.
func parkedAt(t api.Transaction) string {
	var parts []string
	for _, p := range t.Parked {
		text := fmt.Sprintf("%s at %s/%s after %d attempts", p.State, p.Topic, p.Name, p.Attempts)
		if p.Reason != "" {
			text += ": " + p.Reason
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, "; ")
}
