package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"github.com/twostep-mq/twostep/cmd/internal/database"
	"github.com/twostep-mq/twostep/configs"
)

func newServeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the server: the registry, the API and the embedded broker",
		Long: `Run the server: the registry of topics and subscriptions, the HTTP API and, unless broker.url names another, a NATS
server with JetStream in this process. Everything it keeps lies in one data folder, which one server at a time locks, or with
store.driver in a database on a server. Services go on publishing, relaying and executing while it is down, as long as the broker is up.

Several servers may share one store on a database server: then they need one external broker, too. Of two that change the registry at
once one is first, and the other reads it again.

Every key of the configuration is a flag, a variable and a key of the file; twostep config show lists them.`,
		Example: `  twostep serve
  twostep serve --data /var/lib/twostep --log-format json
  TWOSTEP_STORE_DSN=postgres://twostep:secret@db.internal/twostep twostep serve --store-driver postgres
  twostep serve --broker-url nats://nats.internal:4222 --broker-user twostep --broker-password-file /run/secrets/nats`,
		Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			loaded, err := configs.Load(cmd.Flags())
			if err != nil {
				return err
			}
			return serve(cmd.Context(), loaded.Config, cmd.OutOrStdout(), newLogger(loaded.Log, cmd.ErrOrStderr()))
		},
	}
	configs.AddFlags(cmd.Flags())
	return cmd
}

// serve runs a server until ctx ends or it fails, and drains it.
func serve(ctx context.Context, cfg configs.Config, out io.Writer, log *slog.Logger) error {
	s, err := startServer(ctx, cfg, log)
	if err != nil {
		return err
	}
	if err := announce(s, cfg, out, log); err != nil {
		s.fail(err)
	}
	var failure error
	select {
	case <-ctx.Done():
		log.Info("draining", "timeout", cfg.ShutdownTimeout)
	case failure = <-s.Failed():
		log.Error("the server stops", "error", failure)
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), cfg.ShutdownTimeout)
	defer cancel()
	if err := errors.Join(failure, s.Close(drain)); err != nil {
		return err
	}
	log.Info("stopped")
	return nil
}

// announce says where the server answers and how services connect; the credential itself is never printed.
func announce(s *server, cfg configs.Config, out io.Writer, log *slog.Logger) error {
	log.Info("twostep is ready", "version", version(), "api", s.URL(), "broker", s.BrokerURL(), "credential_file", s.CredentialFile(), "data", s.folder.path, "store", s.db.Place())
	if cfg.Log.Format == "json" {
		return nil
	}
	var b strings.Builder
	fmt.Fprintf(&b, "twostep is ready\n\n  API and CLI   %s\n  broker        %s\n", s.URL(), s.BrokerURL())
	if file := s.CredentialFile(); file != "" {
		fmt.Fprintf(&b, "  credential    %s   (one line, user:password)\n", file)
	}
	if s.db.Kind != database.SQLite {
		fmt.Fprintf(&b, "  store         %s\n", s.db.Place())
	}
	fmt.Fprintf(&b, "  data          %s\n\nservices in other processes:\n\n  export TWOSTEP_BROKER_URL=%s\n", s.folder.path, s.BrokerURL())
	if file := s.CredentialFile(); file != "" {
		fmt.Fprintf(&b, "  export TWOSTEP_BROKER_CREDENTIAL_FILE=%s\n", file)
	}
	fmt.Fprintf(&b, "\ncommand line, here or in another terminal:\n\n  export TWOSTEP_SERVER=%s\n  twostep topics list\n\n", s.URL())
	if _, err := io.WriteString(out, b.String()); err != nil {
		return fmt.Errorf("print where the server is: %w", err)
	}
	return nil
}

// newLogger makes the logger that the configuration asks for; its values are valid.
func newLogger(cfg configs.Log, w io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Level)); err != nil {
		level = slog.LevelInfo
	}
	options := &slog.HandlerOptions{Level: level}
	if cfg.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}
