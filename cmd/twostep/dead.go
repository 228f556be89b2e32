package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/twostep-mq/twostep/adapters/api"
)

func newDeadCommand() *cobra.Command {
	var to remote
	cmd := &cobra.Command{
		Use:   "dead",
		Short: "Look at dead letters, run them again or drop them",
		Long: `A dead letter is a message that could not be executed. It is kept in the consumer's database with its reason until
it is replayed or dropped. The service of its subscription must be running to be asked.`,
		Example: `  twostep dead list
  twostep dead show bank.trans-in/accounts 0198c6a2-7a55-7cc2-9a3e-4f6d2b0e9b11
  twostep dead replay bank.trans-in/accounts 0198c6a2-7a55-7cc2-9a3e-4f6d2b0e9b11`,
	}
	to.addFlags(cmd)
	return group(cmd, newDeadList(&to), newDeadShow(&to),
		newDeadChange(&to, "replay", "Run a dead letter again", "is replayed: it runs again now", replay),
		newDeadChange(&to, "drop", "Drop a dead letter for good; it will never run", "is dropped", drop))
}

func newDeadList(to *remote) *cobra.Command {
	var (
		topic, state string
		limit        int
	)
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List dead letters of all subscriptions",
		Example: "  twostep dead list --topic bank.trans-in\n  twostep dead list --state all",
		Args:    args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := to.client(os.Getenv)
			if err != nil {
				return err
			}
			list, err := c.Dead(cmd.Context(), topic, state, limit)
			if err != nil {
				return err
			}
			warnUnreachable(cmd, list.Unreachable)
			if to.json {
				return printJSON(cmd.OutOrStdout(), list)
			}
			now := time.Now().UnixMilli()
			rows := [][]string{}
			for _, d := range list.Dead {
				rows = append(rows, []string{d.Topic + "/" + d.Name, d.ID, d.Key, d.State, strconv.Itoa(d.Attempts), age(now - d.ParkedAtMS), d.Reason})
			}
			if err := printTable(cmd.OutOrStdout(), []string{"SUBSCRIPTION", "ID", "KEY", "STATE", "ATTEMPTS", "PARKED FOR", "REASON"}, rows); err != nil {
				return err
			}
			if list.Truncated {
				_, err = fmt.Fprintln(cmd.ErrOrStderr(), "twostep: there are more: raise --limit (at most 500), or name a --topic")
			}
			return err
		},
	}
	cmd.Flags().StringVar(&topic, "topic", "", "of this topic only")
	cmd.Flags().StringVar(&state, "state", "dead", "dead, waiting, held or all")
	cmd.Flags().IntVar(&limit, "limit", 100, "at most so many (1 to 500)")
	return cmd
}

func newDeadShow(to *remote) *cobra.Command {
	return &cobra.Command{
		Use:     "show TOPIC/SUBSCRIPTION ID",
		Short:   "Show one parked message with its payload",
		Example: "  twostep dead show bank.trans-in/accounts 0198c6a2-7a55-7cc2-9a3e-4f6d2b0e9b11",
		Args:    args("TOPIC/SUBSCRIPTION", "ID"),
		RunE: func(cmd *cobra.Command, given []string) error {
			c, err := to.client(os.Getenv)
			if err != nil {
				return err
			}
			d, err := c.DeadLetter(cmd.Context(), given[0], given[1])
			if err != nil {
				return err
			}
			if to.json {
				return printJSON(cmd.OutOrStdout(), d)
			}
			rows := [][]string{
				{"gid", d.GID}, {"key", d.Key}, {"state", d.State}, {"attempts", strconv.Itoa(d.Attempts)}, {"reason", d.Reason},
				{"parked", moment(d.ParkedAtMS)}, {"next attempt", moment(d.NextAtMS)}, {"content type", d.ContentType},
			}
			for _, name := range slices.Sorted(maps.Keys(d.Headers)) {
				rows = append(rows, []string{"header " + name, d.Headers[name]})
			}
			rows = append(rows, []string{"payload", fmt.Sprintf("%d bytes", d.Size)})
			if err := printTable(cmd.OutOrStdout(), []string{d.Topic + "/" + d.Name, d.ID}, rows); err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), payloadText(d.Payload))
			return err
		},
	}
}

// payloadText shows a payload on a terminal: JSON indented, other text quoted where it must be, anything else as its size.
func payloadText(payload []byte) string {
	var value any
	if json.Unmarshal(payload, &value) == nil {
		if raw, err := json.MarshalIndent(value, "", "  "); err == nil {
			return string(raw)
		}
	}
	if !utf8.Valid(payload) {
		return fmt.Sprintf("(%d bytes that are no text; --json has them in base64)", len(payload))
	}
	lines := strings.Split(string(payload), "\n")
	for i := range lines {
		if lines[i] != "" {
			lines[i] = printable(lines[i])
		}
	}
	return strings.Join(lines, "\n")
}

// newDeadChange makes replay and drop.
func newDeadChange(to *remote, use, short, done string, do func(ctx context.Context, c *api.Client, subscription, id string) error) *cobra.Command {
	return &cobra.Command{
		Use:     use + " TOPIC/SUBSCRIPTION ID",
		Short:   short,
		Example: "  twostep dead " + use + " bank.trans-in/accounts 0198c6a2-7a55-7cc2-9a3e-4f6d2b0e9b11",
		Args:    args("TOPIC/SUBSCRIPTION", "ID"),
		RunE: func(cmd *cobra.Command, given []string) error {
			c, err := to.client(os.Getenv)
			if err != nil {
				return err
			}
			if err := do(cmd.Context(), c, given[0], given[1]); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "message %s %s\n", given[1], done)
			return err
		},
	}
}

func replay(ctx context.Context, c *api.Client, subscription, id string) error {
	return c.Replay(ctx, subscription, id)
}

func drop(ctx context.Context, c *api.Client, subscription, id string) error {
	return c.Drop(ctx, subscription, id)
}
