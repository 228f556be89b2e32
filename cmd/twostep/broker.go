package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/twostep-mq/twostep/broker"
	natsbroker "github.com/twostep-mq/twostep/broker/nats"
	"github.com/twostep-mq/twostep/configs"
	"github.com/twostep-mq/twostep/outbox"
)

// natsConfig is how the configuration reaches a NATS server; its address is empty where that is the embedded one.
func natsConfig(cfg configs.Config, name string, log *slog.Logger) natsbroker.Config {
	b := cfg.Broker
	return natsbroker.Config{
		URL: b.URL, User: b.User, Password: string(b.Password), CredsFile: b.CredsFile, NKeyFile: b.NKeyFile,
		CAFile: b.TLS.CAFile, CertFile: b.TLS.CertFile, KeyFile: b.TLS.KeyFile, DeclareOff: cfg.External() && !b.Declare,
		Replicas: b.Replicas, Prefix: b.Prefix, Name: name, Logger: log, TopicMaxBytes: int64(b.TopicMaxBytes),
	}
}

func newBrokerCommand() *cobra.Command {
	return group(&cobra.Command{Use: "broker", Short: "What an external broker has to have"}, newBrokerPlanCommand())
}

// planFile is what `twostep broker plan` reads.
type planFile struct {
	// Server is the user of twostep serve.
	Server string `yaml:"server"`
	Topics []struct {
		Name     string `yaml:"name"`
		Delivery string `yaml:"delivery"`
	} `yaml:"topics"`
	Services []struct {
		User    string   `yaml:"user"`
		Outbox  string   `yaml:"outbox"`
		Sends   []string `yaml:"sends"`
		Handles []string `yaml:"handles"`
	} `yaml:"services"`
}

func newBrokerPlanCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "plan FILE",
		Short: "List the streams and the rights that topics and services need",
		Long: `List what an installation needs on an external NATS server: its streams, and for each user the subjects it may publish and subscribe
to, which are the least that do. It is for places where streams are made by others (broker.declare: false), and for giving rights. It
connects to nothing and changes nothing.

FILE is YAML:

  server: twostep            # user of twostep serve
  topics:
    - name: bank.trans-in
    - name: audit
      delivery: broker
  services:
    - user: bank-a
      outbox: 0197f000-0000-7000-8000-000000000001   # twostep outbox list shows it
      sends: [bank.trans-in]
    - user: bank-b
      handles: [bank.trans-in]

Without --print it prints a summary; with it JSON: streams as "nats stream add --config" takes them, users as in nats-server's
configuration. Prefix, replicas and sizes come from the configuration, as for twostep serve.`,
		Example: `  twostep broker plan services.yaml
  twostep broker plan services.yaml --print --broker-replicas 3`,
		Args: args("FILE"),
		RunE: func(cmd *cobra.Command, given []string) error {
			loaded, err := configs.Load(cmd.Flags())
			if err != nil {
				return usagef("%v", err)
			}
			file, err := readPlanFile(given[0])
			if err != nil {
				return err
			}
			// Who asks for a plan makes the streams by it.
			cfg := natsConfig(loaded.Config, "", nil)
			cfg.DeclareOff = !loaded.Broker.Declare
			plan := cfg.Plan(file.Server, file.topics(), file.services())
			if all {
				return printJSON(cmd.OutOrStdout(), plan)
			}
			return printPlan(cmd.OutOrStdout(), plan)
		},
	}
	configs.AddFlags(cmd.Flags())
	cmd.Flags().BoolVar(&all, "print", false, "print all of it, as JSON")
	return cmd
}

func readPlanFile(path string) (*planFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, usagef("broker plan: %v: name a YAML file; see twostep broker plan --help", err)
	}
	defer func() { _ = f.Close() }()
	file := planFile{Server: "twostep"}
	decoder := yaml.NewDecoder(f)
	decoder.KnownFields(true)
	if err := decoder.Decode(&file); err != nil {
		return nil, usagef("broker plan: %s: %s: see twostep broker plan --help", path, strings.ReplaceAll(err.Error(), "\n", " "))
	}
	known := map[string]bool{}
	for _, t := range file.Topics {
		if err := outbox.ValidTopic(t.Name); err != nil {
			return nil, usagef("broker plan: %s: %v", path, err)
		}
		if d := outbox.Delivery(t.Delivery); d != "" && d != outbox.DeliveryBroker && d != outbox.DeliveryConfirmed {
			return nil, usagef("broker plan: %s: topic %s has the delivery %q: use %s or %s", path, t.Name, t.Delivery, outbox.DeliveryConfirmed, outbox.DeliveryBroker)
		}
		known[t.Name] = true
	}
	for _, s := range file.Services {
		if s.User == "" {
			return nil, usagef("broker plan: %s: a service has no user", path)
		}
		if (s.Outbox == "") != (len(s.Sends) == 0) {
			return nil, usagef("broker plan: %s: service %s: outbox and sends belong together; twostep outbox list shows the UUID", path, s.User)
		}
		for _, name := range append(append([]string{}, s.Sends...), s.Handles...) {
			if !known[name] {
				return nil, usagef("broker plan: %s: service %s names the topic %q, which is not among topics", path, s.User, name)
			}
		}
	}
	return &file, nil
}

func (f *planFile) topics() (specs []broker.TopicSpec) {
	for _, t := range f.Topics {
		specs = append(specs, broker.TopicSpec{Name: t.Name, Retained: outbox.Delivery(t.Delivery) == outbox.DeliveryBroker})
	}
	return specs
}

func (f *planFile) services() (services []natsbroker.PlanService) {
	for _, s := range f.Services {
		services = append(services, natsbroker.PlanService{User: s.User, Outbox: s.Outbox, Sends: s.Sends, Handles: s.Handles})
	}
	return services
}

func printPlan(w io.Writer, plan natsbroker.Plan) error {
	rows := [][]string{}
	for _, s := range plan.Streams {
		raw, err := json.Marshal(s.Discard)
		if err != nil {
			return err
		}
		rows = append(rows, []string{s.Name, strings.Join(s.Subjects, ", "), s.Retention.String(), "discard " + strings.Trim(string(raw), `"`), configs.ByteSize(s.MaxBytes).String(), fmt.Sprint(s.Replicas)})
	}
	if err := printTable(w, []string{"STREAM", "SUBJECTS", "RETENTION", "WHEN FULL", "MAX BYTES", "REPLICAS"}, rows); err != nil {
		return err
	}
	rows = rows[:0]
	for _, u := range plan.Users {
		rows = append(rows, []string{u.User, fmt.Sprint(len(u.Permissions.Publish)), fmt.Sprint(len(u.Permissions.Subscribe))})
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	if err := printTable(w, []string{"USER", "MAY PUBLISH TO", "MAY SUBSCRIBE TO"}, rows); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w, "\nall of it as JSON: --print")
	return err
}
