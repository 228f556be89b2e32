// Package configs holds the server's configuration: its keys with their defaults and meaning, their validation, and
// the loader that puts defaults, a file, the environment and flags together. It is the only place where Viper is known.
package configs

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Config is everything that `twostep serve` can be told. docs/reference.md lists the keys; configs/twostep.yaml is a
// sample with the defaults.
type Config struct {
	// Data is the folder with the server's database (where that is SQLite), the embedded broker's files and its credential.
	Data string
	HTTP HTTP
	// Store is the server's database.
	Store Store
	// Broker is the embedded broker, or an external one where URL is set.
	Broker Broker
	Log    Log
	// ShutdownTimeout bounds draining after SIGINT or SIGTERM.
	ShutdownTimeout time.Duration
}

// HTTP is the server's API.
type HTTP struct {
	// Listen is a loopback address and port; port 0 takes a free one.
	Listen string
}

// Store says where the server keeps the registry.
type Store struct {
	// Driver is sqlite (a file in the data folder), postgres or mysql.
	Driver string
	// DSN of the database on a server. It comes from TWOSTEP_STORE_DSN or from DSNFile.
	DSN     Secret
	DSNFile string
	// Schema of the tables, PostgreSQL's alone; TablePrefix begins their names, not for SQLite.
	Schema, TablePrefix string
	// AllowUnsafeDurability accepts a server that may lose what it has acknowledged.
	AllowUnsafeDurability bool
}

// Broker says where messages travel.
type Broker struct {
	// Listen is where the embedded broker serves other processes: a loopback address and port; port 0 takes a free one.
	Listen string
	// URL of an external NATS server (nats://host:port), instead of the embedded one.
	URL string
	// User and Password log in at URL. The password comes from TWOSTEP_BROKER_PASSWORD or from PasswordFile.
	User         string
	Password     Secret
	PasswordFile string
	// CredsFile (a NATS credentials file) and NKeyFile (the seed of an nkey) log in without user and password.
	CredsFile, NKeyFile string
	TLS                 TLS
	// Replicas of every stream of an external cluster.
	Replicas int
	// Declare lets the server make missing streams at an external broker; off, others make them.
	Declare bool
	// Prefix begins the names of all streams and subjects.
	Prefix string
	// MaxBytes bounds what all streams of the embedded broker may reserve together, TopicMaxBytes what one topic keeps. The
	// disk may be smaller: what is released goes.
	MaxBytes, TopicMaxBytes ByteSize
	// SyncAlways makes the embedded broker flush every write to disk before it acknowledges it.
	SyncAlways bool
}

// TLS are the certificates for an external broker, PEM files.
type TLS struct {
	// CAFile signs the broker's certificate; empty: the system's authorities do. CertFile and KeyFile show who we are.
	CAFile, CertFile, KeyFile string
}

// Log says what is logged and how.
type Log struct {
	// Level is debug, info, warn or error.
	Level string
	// Format is text or json.
	Format string
}

// Defaults returns the configuration that holds when nothing is configured.
func Defaults() Config {
	return Config{
		Data:            "./twostep-data",
		HTTP:            HTTP{Listen: "127.0.0.1:36789"},
		Store:           Store{Driver: "sqlite"},
		Broker:          Broker{Listen: "127.0.0.1:36792", Prefix: "twostep", MaxBytes: 256 << 30, TopicMaxBytes: 256 << 20, Replicas: 1, Declare: true},
		Log:             Log{Level: "info", Format: "text"},
		ShutdownTimeout: 15 * time.Second,
	}
}

// External reports whether an external broker is configured; else the embedded one is started.
func (c *Config) External() bool { return c.Broker.URL != "" }

// prefixPattern is what may begin a stream's name and a subject.
var prefixPattern = regexp.MustCompile(`^[A-Za-z0-9_-]{1,32}$`)

// Validate checks every value and returns all that is wrong, each with its key, its value and what to do.
func (c *Config) Validate() error {
	var errs []error
	bad := func(key, value, why string) {
		errs = append(errs, &ValueError{Key: key, Value: value, Why: why})
	}
	if c.Data == "" {
		bad("data", "", "name a folder, as ./twostep-data")
	}
	if why := loopback(c.HTTP.Listen); why != "" {
		bad("http.listen", c.HTTP.Listen, why)
	}
	if why := loopback(c.Broker.Listen); why != "" {
		bad("broker.listen", c.Broker.Listen, why)
	}
	if !prefixPattern.MatchString(c.Broker.Prefix) {
		bad("broker.prefix", c.Broker.Prefix, "use 1 to 32 letters, digits, _ or -")
	}
	if c.Broker.MaxBytes < 4<<30 {
		bad("broker.max_bytes", c.Broker.MaxBytes.String(), "use 4GiB or more; streams reserve it, the disk need not have it")
	}
	if c.Broker.TopicMaxBytes < 1<<20 || c.Broker.TopicMaxBytes > c.Broker.MaxBytes/4 {
		bad("broker.topic_max_bytes", c.Broker.TopicMaxBytes.String(), "use 1MiB or more, and at most a quarter of broker.max_bytes")
	}
	c.validateStore(bad)
	c.validateExternal(bad)
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, c.Log.Level) {
		bad("log.level", c.Log.Level, "use debug, info, warn or error")
	}
	if !slices.Contains([]string{"text", "json"}, c.Log.Format) {
		bad("log.format", c.Log.Format, "use text or json")
	}
	if c.ShutdownTimeout < time.Second || c.ShutdownTimeout > 10*time.Minute {
		bad("shutdown_timeout", c.ShutdownTimeout.String(), "use a time from 1s to 10m")
	}
	return errors.Join(errs...)
}

// validateStore checks what belongs to the server's database.
func (c *Config) validateStore(bad func(key, value, why string)) {
	s := &c.Store
	switch s.Driver {
	case "sqlite":
		if s.DSN != "" {
			bad("store.dsn", masked, "store.driver is sqlite, whose database is a file in the data folder: set store.driver to postgres or mysql, or leave the DSN out")
		}
		if s.Schema != "" || s.TablePrefix != "" {
			bad("store.schema", s.Schema+s.TablePrefix, "schema and table prefix are for postgres and mysql: leave store.schema and store.table_prefix out")
		}
	case "postgres", "mysql":
		if s.DSN == "" {
			bad("store.dsn", "", "store.driver is "+s.Driver+": set TWOSTEP_STORE_DSN, or store.dsn_file")
		}
		if s.Driver == "mysql" && s.Schema != "" {
			bad("store.schema", s.Schema, "mysql has no schemas besides its databases: name the database in the DSN, and leave store.schema out")
		}
	default:
		bad("store.driver", s.Driver, "use sqlite, postgres or mysql (MariaDB, too)")
	}
}

// validateExternal checks what belongs to an external broker.
func (c *Config) validateExternal(bad func(key, value, why string)) {
	b := &c.Broker
	if b.Replicas < 1 || b.Replicas > 5 {
		bad("broker.replicas", strconv.Itoa(b.Replicas), "use 1 to 5; 3 for a cluster of three")
	}
	if b.URL == "" {
		for _, f := range []struct{ key, value string }{
			{"broker.creds_file", b.CredsFile}, {"broker.nkey_file", b.NKeyFile}, {"broker.tls.ca_file", b.TLS.CAFile},
			{"broker.tls.cert_file", b.TLS.CertFile}, {"broker.tls.key_file", b.TLS.KeyFile},
		} {
			if f.value != "" {
				bad(f.key, f.value, "it is for an external broker: set broker.url too, or leave it out")
			}
		}
		if b.Replicas > 1 {
			bad("broker.replicas", strconv.Itoa(b.Replicas), "the embedded broker is one server: set broker.url to a cluster, or leave it out")
		}
		if b.User != "" || b.Password != "" || b.PasswordFile != "" {
			bad("broker.user", b.User, "user and password are for an external broker: set broker.url too, or leave them out (the embedded broker makes its own credential)")
		}
		return
	}
	u, err := url.Parse(b.URL)
	if err != nil || u.Host == "" || (u.Scheme != "nats" && u.Scheme != "tls") {
		bad("broker.url", redactURL(b.URL), "use nats://host:port or tls://host:port")
		return
	}
	if _, has := u.User.Password(); has {
		bad("broker.url", redactURL(b.URL), "it holds a password: use broker.user and broker.password_file or TWOSTEP_BROKER_PASSWORD")
	}
	ways := 0
	for _, set := range []bool{b.User != "", b.CredsFile != "", b.NKeyFile != ""} {
		if set {
			ways++
		}
	}
	if ways > 1 {
		bad("broker.creds_file", b.CredsFile, "keep one of broker.user, broker.creds_file and broker.nkey_file")
	}
	if (b.TLS.CertFile == "") != (b.TLS.KeyFile == "") {
		bad("broker.tls.cert_file", b.TLS.CertFile, "a client certificate needs broker.tls.cert_file and broker.tls.key_file")
	}
	if u.Host == b.Listen {
		bad("broker.url", redactURL(b.URL), "that is broker.listen, where this server's own embedded broker would be: leave broker.url out (unset TWOSTEP_BROKER_URL for the server), or name another server")
	}
}

// ValueError is a value that a key cannot have.
type ValueError struct {
	Key, Value string
	// Why says what is wrong and what to do.
	Why string
	// Source is where the value came from (a file, a variable, a flag), if that is known.
	Source string
}

func (e *ValueError) Error() string {
	from := ""
	if e.Source != "" {
		from = " (from " + e.Source + ")"
	}
	return fmt.Sprintf("configuration key %s has the value %q%s: %s", e.Key, e.Value, from, e.Why)
}

// loopback returns what is wrong with a listen address, or nothing.
func loopback(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "use an address and a port, as 127.0.0.1:36789"
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Sprintf("the port must be a number from 0 to 65535, not %q", port)
	}
	if host == "localhost" {
		return ""
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsLoopback() {
		return ""
	}
	return fmt.Sprintf("other machines could reach it, which is refused until tokens and TLS exist: use a loopback address, as 127.0.0.1:%s", port)
}

// redactURL hides a password in a URL, also in one that does not parse.
func redactURL(raw string) string {
	if u, err := url.Parse(raw); err == nil {
		return u.Redacted()
	}
	if at := strings.LastIndexByte(raw, '@'); at >= 0 {
		return "***" + raw[at:]
	}
	return raw
}

// readSecretFile reads a secret from a file that only its owner can read.
func readSecretFile(key, path string) (Secret, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", &ValueError{Key: key, Value: path, Why: "the file cannot be read: " + err.Error()}
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", &ValueError{Key: key, Value: path, Why: fmt.Sprintf("others can read the file (mode %04o): run chmod 600 %s", info.Mode().Perm(), path)}
	}
	raw, err := os.ReadFile(filepath.Clean(path))
	if err != nil {
		return "", &ValueError{Key: key, Value: path, Why: "the file cannot be read: " + err.Error()}
	}
	return Secret(strings.TrimRight(string(raw), "\r\n")), nil
}
