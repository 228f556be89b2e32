package configs

import (
	"strings"

	"github.com/spf13/pflag"
)

// Key is one configuration key as users see it.
type Key struct {
	// Name as in a file, with dots: http.listen.
	Name string
	// Usage is one line.
	Usage string
	// Secret values come from the environment or a *_file key only, and are shown as ***.
	Secret bool
	place  any
}

// Env is the environment variable of the key.
func (k Key) Env() string {
	return "TWOSTEP_" + strings.ToUpper(strings.ReplaceAll(k.Name, ".", "_"))
}

// Flag is the command-line flag of the key, without dashes in front; empty for secrets, which a list of processes would show.
func (k Key) Flag() string {
	if k.Secret {
		return ""
	}
	return strings.NewReplacer(".", "-", "_", "-").Replace(k.Name)
}

// Value is the key's value as a file would hold it; a secret is masked.
func (k Key) Value() string { return show(k.place) }

// Keys lists all keys with their values in c, in the order of the sample file.
func (c *Config) Keys() []Key {
	return []Key{
		{Name: "data", Usage: "folder for the server's database, the embedded broker and its credential", place: &c.Data},
		{Name: "http.listen", Usage: "address of the HTTP API, loopback only; port 0 takes a free one", place: &c.HTTP.Listen},
		{Name: "store.driver", Usage: "the server's database: sqlite (a file in the data folder), postgres or mysql (MariaDB, too)", place: &c.Store.Driver},
		{Name: "store.dsn", Usage: "DSN of the server's database", Secret: true, place: &c.Store.DSN},
		{Name: "store.dsn_file", Usage: "file with the DSN of the server's database, readable by its owner only", place: &c.Store.DSNFile},
		{Name: "store.schema", Usage: "postgres: schema of the server's tables", place: &c.Store.Schema},
		{Name: "store.table_prefix", Usage: "postgres, mysql: what the names of the server's tables begin with (twostep_)", place: &c.Store.TablePrefix},
		{Name: "store.allow_unsafe_durability", Usage: "accept a database server that may lose what it has acknowledged; the promises do not hold then", place: &c.Store.AllowUnsafeDurability},
		{Name: "broker.listen", Usage: "address of the embedded broker, loopback only; port 0 takes a free one", place: &c.Broker.Listen},
		{Name: "broker.url", Usage: "external NATS server (nats://host:port) to use instead of the embedded broker", place: &c.Broker.URL},
		{Name: "broker.user", Usage: "user at the external broker", place: &c.Broker.User},
		{Name: "broker.password", Usage: "password at the external broker", Secret: true, place: &c.Broker.Password},
		{Name: "broker.password_file", Usage: "file with the password at the external broker, readable by its owner only", place: &c.Broker.PasswordFile},
		{Name: "broker.creds_file", Usage: "NATS credentials file for the external broker", place: &c.Broker.CredsFile},
		{Name: "broker.nkey_file", Usage: "file with the seed of an nkey for the external broker", place: &c.Broker.NKeyFile},
		{Name: "broker.tls.ca_file", Usage: "PEM file of the authority that signed the external broker's certificate (default: the system's)", place: &c.Broker.TLS.CAFile},
		{Name: "broker.tls.cert_file", Usage: "PEM file of this server's certificate for the external broker", place: &c.Broker.TLS.CertFile},
		{Name: "broker.tls.key_file", Usage: "PEM file of that certificate's key", place: &c.Broker.TLS.KeyFile},
		{Name: "broker.replicas", Usage: "replicas of every stream at an external cluster", place: &c.Broker.Replicas},
		{Name: "broker.declare", Usage: "make missing streams at the external broker; false: others do, as twostep broker plan says", place: &c.Broker.Declare},
		{Name: "broker.prefix", Usage: "first part of the names of all streams and subjects", place: &c.Broker.Prefix},
		{Name: "broker.max_bytes", Usage: "what all streams of the embedded broker may reserve together; the disk may be smaller", place: &c.Broker.MaxBytes},
		{Name: "broker.topic_max_bytes", Usage: "what the broker keeps of one topic; the oldest messages go first", place: &c.Broker.TopicMaxBytes},
		{Name: "broker.sync_always", Usage: "embedded broker: flush each write to disk before acknowledging it (slower; not needed for confirmed delivery)", place: &c.Broker.SyncAlways},
		{Name: "log.level", Usage: "debug, info, warn or error", place: &c.Log.Level},
		{Name: "log.format", Usage: "text or json", place: &c.Log.Format},
		{Name: "shutdown_timeout", Usage: "how long draining may take after SIGINT or SIGTERM", place: &c.ShutdownTimeout},
	}
}

// AddFlags defines a flag for every key that may have one, and --config.
func AddFlags(fs *pflag.FlagSet) {
	defaults := Defaults()
	fs.String("config", "", "configuration file: YAML, TOML or JSON (TWOSTEP_CONFIG; default ./twostep.yaml if it is there)")
	for _, k := range defaults.Keys() {
		if k.Secret {
			continue
		}
		if b, ok := k.place.(*bool); ok {
			fs.Bool(k.Flag(), *b, k.Usage)
			continue
		}
		fs.String(k.Flag(), k.Value(), k.Usage)
	}
}

// nearest returns the known key that is closest to name by edit distance.
func nearest(name string, keys []Key) string {
	best, bestDistance := "", 1<<30
	for _, k := range keys {
		d := distance(name, k.Name)
		// A key written without its section is close to the one in it.
		if i := strings.LastIndexByte(k.Name, '.'); i >= 0 {
			d = min(d, distance(name, k.Name[i+1:])+1)
		}
		if d < bestDistance {
			best, bestDistance = k.Name, d
		}
	}
	return best
}

// distance is the Levenshtein distance of two short texts.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			above := row[j+1]
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(row[j+1]+1, row[j]+1, diagonal+cost)
			diagonal = above
		}
	}
	return row[len(b)]
}
