package main

import (
	"github.com/spf13/cobra"

	"github.com/twostep-mq/twostep/configs"
)

func newConfigCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Look at the server's configuration", Example: "  twostep config show"}
	return group(cmd, newConfigShow())
}

// shownKey is one key of `config show --json`.
type shownKey struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Source string `json:"source"`
	Env    string `json:"env"`
	Flag   string `json:"flag,omitempty"`
}

func newConfigShow() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show every key, its value and where it came from; secrets are masked",
		Long: `Show every key, its value and where it came from; secrets are masked. It takes the flags of twostep serve, so that
what they change can be seen first.`,
		Example: "  twostep config show\n  TWOSTEP_LOG_LEVEL=debug twostep config show --config twostep.yaml --json",
		Args:    args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			loaded, err := configs.Load(cmd.Flags())
			if err != nil {
				return err
			}
			shown := []shownKey{}
			rows := [][]string{}
			for _, k := range loaded.Keys() {
				source := loaded.Sources[k.Name]
				if source == "" {
					source = "default"
				}
				shown = append(shown, shownKey{k.Name, k.Value(), source, k.Env(), k.Flag()})
				rows = append(rows, []string{k.Name, k.Value(), source})
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), map[string]any{"file": loaded.File, "keys": shown})
			}
			return printTable(cmd.OutOrStdout(), []string{"KEY", "VALUE", "SOURCE"}, rows)
		},
	}
	configs.AddFlags(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON for programs")
	return cmd
}
