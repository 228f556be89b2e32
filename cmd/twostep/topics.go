package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/twostep-mq/twostep/adapters/api"
)

func newTopicsCommand() *cobra.Command {
	var to remote
	cmd := &cobra.Command{
		Use:   "topics",
		Short: "Make, list and remove topics and subscriptions",
		Example: `  twostep topics create bank.trans-in --keyed
  twostep topics subscribe bank.trans-in accounts
  twostep topics show bank.trans-in`,
	}
	to.addFlags(cmd)
	return group(cmd, newTopicsCreate(&to), newTopicsList(&to), newTopicsShow(&to), newTopicsSubscribe(&to), newTopicsUnsubscribe(&to), newTopicsDelete(&to))
}

func newTopicsCreate(to *remote) *cobra.Command {
	var topic api.CreateTopic
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a topic; one that exists with the same settings is left alone",
		Example: `  twostep topics create bank.trans-in --keyed
  twostep topics create metrics --delivery broker --no-subscribers drop`,
		Args: args("NAME"),
		RunE: func(cmd *cobra.Command, given []string) error {
			c, err := to.client(os.Getenv)
			if err != nil {
				return err
			}
			topic.Name = given[0]
			t, err := c.CreateTopic(cmd.Context(), topic)
			if err != nil {
				return err
			}
			if to.json {
				return printJSON(cmd.OutOrStdout(), t)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "topic %s is there: delivery %s, no_subscribers %s, keyed %t, %d subscriptions\n",
				t.Name, t.Delivery, t.NoSubscribers, t.Keyed, len(standing(t.Subscriptions)))
			return err
		},
	}
	cmd.Flags().StringVar(&topic.Delivery, "delivery", "confirmed", "what releases a message: confirmed (receipts of all subscriptions) or broker (its acknowledgement, which is no proof)")
	cmd.Flags().StringVar(&topic.NoSubscribers, "no-subscribers", "hold", "what becomes of messages that nobody subscribes to: hold or drop")
	cmd.Flags().BoolVar(&topic.Keyed, "keyed", false, "messages have ordering keys: one process of a subscription reads at a time")
	return cmd
}

func newTopicsList(to *remote) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List all topics",
		Example: "  twostep topics list --json",
		Args:    args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := to.client(os.Getenv)
			if err != nil {
				return err
			}
			list, err := c.Topics(cmd.Context())
			if err != nil {
				return err
			}
			if to.json {
				return printJSON(cmd.OutOrStdout(), list)
			}
			rows := [][]string{}
			for _, t := range list.Topics {
				rows = append(rows, []string{t.Name, t.Delivery, t.NoSubscribers, strconv.FormatBool(t.Keyed), strconv.Itoa(len(standing(t.Subscriptions)))})
			}
			return printTable(cmd.OutOrStdout(), []string{"TOPIC", "DELIVERY", "NO SUBSCRIBERS", "KEYED", "SUBSCRIPTIONS"}, rows)
		},
	}
}

func newTopicsShow(to *remote) *cobra.Command {
	return &cobra.Command{
		Use:   "show NAME",
		Short: "Show a topic with its subscriptions",
		Long: `Show a topic with its subscriptions. A subscription is registered when it was made, active when every
known outbox has recorded it (from then on every message is promised to it), removed when nobody waits for it any more.`,
		Example: "  twostep topics show bank.trans-in",
		Args:    args("NAME"),
		RunE: func(cmd *cobra.Command, given []string) error {
			c, err := to.client(os.Getenv)
			if err != nil {
				return err
			}
			t, err := c.Topic(cmd.Context(), given[0])
			if err != nil {
				return err
			}
			if to.json {
				return printJSON(cmd.OutOrStdout(), t)
			}
			out := cmd.OutOrStdout()
			if _, err := fmt.Fprintf(out, "%s: delivery %s, no_subscribers %s, keyed %t, registry version %d\n\n", t.Name, t.Delivery, t.NoSubscribers, t.Keyed, t.Version); err != nil {
				return err
			}
			rows := [][]string{}
			for _, s := range t.Subscriptions {
				rows = append(rows, []string{s.Name, s.State, s.UID, moment(s.CreatedAtMS)})
			}
			return printTable(out, []string{"SUBSCRIPTION", "STATE", "UID", "CREATED"}, rows)
		},
	}
}

func newTopicsSubscribe(to *remote) *cobra.Command {
	return &cobra.Command{
		Use:     "subscribe TOPIC NAME",
		Short:   "Make a subscription; one that exists is left alone",
		Long:    "Make a subscription. From then on messages wait until a service executes them under this name.",
		Example: "  twostep topics subscribe bank.trans-in accounts",
		Args:    args("TOPIC", "NAME"),
		RunE: func(cmd *cobra.Command, given []string) error {
			c, err := to.client(os.Getenv)
			if err != nil {
				return err
			}
			s, err := c.Subscribe(cmd.Context(), given[0], given[1])
			if err != nil {
				return err
			}
			if to.json {
				return printJSON(cmd.OutOrStdout(), s)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "subscription %s/%s is %s: %s\n", s.Topic, s.Name, s.State, s.UID)
			return err
		},
	}
}

func newTopicsUnsubscribe(to *remote) *cobra.Command {
	return &cobra.Command{
		Use:     "unsubscribe TOPIC NAME",
		Short:   "Remove a subscription for good",
		Long:    "Remove a subscription for good: nobody waits for it any more. One made later under the same name is another one.",
		Example: "  twostep topics unsubscribe bank.trans-in accounts",
		Args:    args("TOPIC", "NAME"),
		RunE: func(cmd *cobra.Command, given []string) error {
			c, err := to.client(os.Getenv)
			if err != nil {
				return err
			}
			if err := c.Unsubscribe(cmd.Context(), given[0], given[1]); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "subscription %s/%s is removed\n", given[0], given[1])
			return err
		},
	}
}

func newTopicsDelete(to *remote) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:     "delete NAME",
		Short:   "Delete a topic; refused while messages are in flight, unless forced",
		Example: "  twostep topics delete metrics --force",
		Args:    args("NAME"),
		RunE: func(cmd *cobra.Command, given []string) error {
			c, err := to.client(os.Getenv)
			if err != nil {
				return err
			}
			deleted, err := c.DeleteTopic(cmd.Context(), given[0], force)
			if err != nil {
				return err
			}
			if to.json {
				return printJSON(cmd.OutOrStdout(), deleted)
			}
			left := "nothing of it was in flight"
			if deleted.Left != "" {
				left = "left behind: " + deleted.Left
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "topic %s is deleted; %s\n", deleted.Topic, left)
			return err
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "delete it with messages in flight")
	return cmd
}

// standing leaves out removed subscriptions.
func standing(all []api.Subscription) []api.Subscription {
	return slices.DeleteFunc(slices.Clone(all), func(s api.Subscription) bool { return s.State == "removed" })
}
