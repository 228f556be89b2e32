package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// newRootCommand puts all commands together.
func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "twostep",
		Short: "Distributed transactions over a message queue",
		Long: `twostep carries a message that was committed together with a business change to every
subscription that has to execute it, exactly once in effect.

Exit codes: 0 ok, 1 failure, 2 usage or configuration, 3 not found, 4 server unreachable, 5 refused in this state.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%s: %v; see %s --help", cmd.CommandPath(), err, cmd.CommandPath())
	})
	return group(root,
		newServeCommand(),
		newDemoCommand(),
		newTopicsCommand(),
		newOutboxCommand(),
		newTransactionsCommand(),
		newDeadCommand(),
		newBrokerCommand(),
		newMigrateCommand(),
		newBenchCommand(),
		newDoctorCommand(),
		newConfigCommand(),
		newVersionCommand(),
	)
}

// group makes cmd a command that only holds others: alone it prints its help, with an unknown one it is a usage error.
func group(cmd *cobra.Command, subs ...*cobra.Command) *cobra.Command {
	cmd.AddCommand(subs...)
	cmd.Args = cobra.ArbitraryArgs
	cmd.SuggestionsMinimumDistance = 2
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		var names []string
		for _, sub := range cmd.Commands() {
			if sub.IsAvailableCommand() {
				names = append(names, sub.Name())
			}
		}
		slices.Sort(names)
		if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
			names = like
		}
		return usagef("%s has no command %q: use %s; see %s --help", cmd.CommandPath(), args[0], strings.Join(names, ", "), cmd.CommandPath())
	}
	return cmd
}

// args wants exactly these arguments, none of them empty.
func args(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, given []string) error {
		wanted := strings.Join(names, " ")
		switch {
		case len(given) > len(names):
			return usagef("%s: too many arguments; usage: %s", cmd.CommandPath(), usageLine(cmd, wanted))
		case len(given) < len(names):
			return usagef("%s: %s is missing; usage: %s", cmd.CommandPath(), names[len(given)], usageLine(cmd, wanted))
		}
		for i, a := range given {
			if a == "" {
				return usagef("%s: %s is empty; usage: %s", cmd.CommandPath(), names[i], usageLine(cmd, wanted))
			}
		}
		return nil
	}
}

func usageLine(cmd *cobra.Command, wanted string) string {
	return strings.TrimSpace(fmt.Sprintf("%s %s", cmd.CommandPath(), wanted))
}
