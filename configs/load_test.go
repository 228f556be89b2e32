package configs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

// load runs Load in an empty folder with the flags given and the environment that the test set.
func load(t *testing.T, args ...string) (*Loaded, error) {
	t.Helper()
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	AddFlags(fs)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return Load(fs)
}

func write(t *testing.T, name, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSampleIsTheDefaults(t *testing.T) {
	sample, err := filepath.Abs("twostep.yaml")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	l, err := load(t, "--config", sample)
	if err != nil {
		t.Fatal(err)
	}
	if l.Config != Defaults() {
		t.Errorf("the sample says %+v, the defaults are %+v", l.Config, Defaults())
	}
	for _, k := range l.Keys() {
		if !k.Secret && l.Sources[k.Name] != sample {
			t.Errorf("the sample does not mention %s", k.Name)
		}
	}
}

func TestReferenceListsEveryKey(t *testing.T) {
	reference, err := os.ReadFile("../docs/reference.md")
	if err != nil {
		t.Fatal(err)
	}
	defaults := Defaults()
	for _, k := range defaults.Keys() {
		value := " `" + k.Value() + "` "
		if k.Value() == "" {
			value = " "
		}
		if line := "| `" + k.Name + "` |" + value + "|"; !strings.Contains(string(reference), line) {
			t.Errorf("docs/reference.md lacks %q", line)
		}
	}
}

func TestLaterSourcesWin(t *testing.T) {
	t.Chdir(t.TempDir())
	file := write(t, "a.toml", "data = 'from-file'\n[http]\nlisten = '127.0.0.1:1'\n[log]\nlevel = 'debug'\nformat = 'json'\n", 0o600)
	t.Setenv("TWOSTEP_HTTP_LISTEN", "127.0.0.1:2")
	t.Setenv("TWOSTEP_LOG_LEVEL", "warn")
	l, err := load(t, "--config", file, "--log-level", "error", "--shutdown-timeout", "3s", "--broker-sync-always")
	if err != nil {
		t.Fatal(err)
	}
	want := Defaults()
	want.Data, want.HTTP.Listen, want.Log = "from-file", "127.0.0.1:2", Log{Level: "error", Format: "json"}
	want.ShutdownTimeout, want.Broker.SyncAlways = 3*time.Second, true
	if l.Config != want {
		t.Errorf("got %+v, want %+v", l.Config, want)
	}
	for key, source := range map[string]string{"data": file, "http.listen": "TWOSTEP_HTTP_LISTEN", "log.level": "--log-level", "log.format": file, "broker.prefix": ""} {
		if l.Sources[key] != source {
			t.Errorf("source of %s is %q, want %q", key, l.Sources[key], source)
		}
	}
}

func TestFileIsFound(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile(DefaultFile, []byte("data: here\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	other := write(t, "b.json", `{"data": "env"}`, 0o600)
	l, err := load(t)
	if err != nil || l.Data != "here" {
		t.Errorf("working directory: %v, %v", l, err)
	}
	t.Setenv("TWOSTEP_CONFIG", other)
	l, err = load(t)
	if err != nil || l.Data != "env" {
		t.Errorf("TWOSTEP_CONFIG: %v, %v", l, err)
	}
}

func TestEnvironmentSetsEveryKey(t *testing.T) {
	values := map[string]string{
		"data": "d", "http.listen": "[::1]:1", "broker.listen": "localhost:2", "broker.url": "tls://broker:3", "broker.user": "u",
		"broker.password": "p", "broker.password_file": "", "broker.prefix": "x", "broker.max_bytes": "5GiB", "broker.topic_max_bytes": "3MiB", "broker.sync_always": "true",
		"broker.creds_file": "", "broker.nkey_file": "", "broker.tls.ca_file": "ca.pem", "broker.tls.cert_file": "cert.pem", "broker.tls.key_file": "key.pem",
		"broker.replicas": "3", "broker.declare": "false",
		"store.driver": "postgres", "store.dsn": "postgres://h/d", "store.dsn_file": "", "store.schema": "s", "store.table_prefix": "p_", "store.allow_unsafe_durability": "true",
		"log.level": "warn", "log.format": "json", "shutdown_timeout": "1m",
	}
	t.Chdir(t.TempDir())
	defaults := Defaults()
	for _, k := range defaults.Keys() {
		value, ok := values[k.Name]
		if !ok {
			t.Fatalf("add %s to this test", k.Name)
		}
		t.Setenv(k.Env(), value)
	}
	l, err := load(t)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range l.Keys() {
		want := values[k.Name]
		if k.Secret {
			want = masked
		}
		if k.Value() != want {
			t.Errorf("%s is %q, want %q", k.Name, k.Value(), want)
		}
	}
}

func TestRefusals(t *testing.T) {
	t.Chdir(t.TempDir())
	broken := write(t, "broken.yaml", "http: [", 0o600)
	open := write(t, "password", "hunter2\n", 0o644)
	file := func(content string) string { return write(t, "twostep.yaml", content, 0o600) }
	misspelt := file("http:\n  listn: 127.0.0.1:1\n")
	unsectioned := file("max_byte: 1GiB\n")
	secret := file("broker:\n  password: hunter2\n")
	flat := file("http: 127.0.0.1:1\n")
	number := file("shutdown_timeout: 15\n")
	dsnInFile := file("store:\n  dsn: postgres://u:hunter2@h/d\n")
	dsn := write(t, "dsn", "postgres://u:hunter2@h/d\n", 0o600)
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"misspelt key", []string{"--config", misspelt},
			"configuration file " + misspelt + ": unknown key http.listn; did you mean http.listen? (twostep config show lists all keys)"},
		{"key without its section", []string{"--config", unsectioned},
			"configuration file " + unsectioned + ": unknown key max_byte; did you mean broker.max_bytes? (twostep config show lists all keys)"},
		{"secret in a file", []string{"--config", secret},
			"configuration file " + secret + ": broker.password is a secret and does not belong into it: use broker.password_file or TWOSTEP_BROKER_PASSWORD"},
		{"section with a value", []string{"--config", flat},
			"configuration file " + flat + ": http holds further keys, as http.listen, and no value of its own"},
		{"number without a unit", []string{"--config", number},
			`configuration key shutdown_timeout has the value "15" (from ` + number + `): use a time with its unit, as 15s or 1m30s`},
		{"all interfaces", []string{"--http-listen", "0.0.0.0:36789"},
			`configuration key http.listen has the value "0.0.0.0:36789" (from --http-listen): other machines could reach it, which is refused until tokens and TLS exist: use a loopback address, as 127.0.0.1:36789`},
		{"no host", []string{"--broker-listen", ":36792"},
			`configuration key broker.listen has the value ":36792" (from --broker-listen): other machines could reach it, which is refused until tokens and TLS exist: use a loopback address, as 127.0.0.1:36792`},
		{"a name", []string{"--http-listen", "example.org:1"},
			`configuration key http.listen has the value "example.org:1" (from --http-listen): other machines could reach it, which is refused until tokens and TLS exist: use a loopback address, as 127.0.0.1:1`},
		{"no port", []string{"--http-listen", "127.0.0.1"},
			`configuration key http.listen has the value "127.0.0.1" (from --http-listen): use an address and a port, as 127.0.0.1:36789`},
		{"bad port", []string{"--http-listen", "127.0.0.1:http"},
			`configuration key http.listen has the value "127.0.0.1:http" (from --http-listen): the port must be a number from 0 to 65535, not "http"`},
		{"no such level", []string{"--log-level", "loud"},
			`configuration key log.level has the value "loud" (from --log-level): use debug, info, warn or error`},
		{"size", []string{"--broker-max-bytes", "8 GB"},
			`configuration key broker.max_bytes has the value "8 GB" (from --broker-max-bytes): use a number of bytes, or one with KiB, MiB, GiB or TiB, as 8GiB`},
		{"too small", []string{"--broker-max-bytes", "1GiB"},
			`configuration key broker.max_bytes has the value "1GiB" (from --broker-max-bytes): use 4GiB or more; streams reserve it, the disk need not have it`},
		{"password in the URL", []string{"--broker-url", "nats://u:hunter2@h:1"},
			`configuration key broker.url has the value "nats://u:xxxxx@h:1" (from --broker-url): it holds a password: use broker.user and broker.password_file or TWOSTEP_BROKER_PASSWORD`},
		{"no such store", []string{"--store-driver", "oracle"},
			`configuration key store.driver has the value "oracle" (from --store-driver): use sqlite, postgres or mysql (MariaDB, too)`},
		{"store without a DSN", []string{"--store-driver", "postgres"},
			`configuration key store.dsn has the value "": store.driver is postgres: set TWOSTEP_STORE_DSN, or store.dsn_file`},
		{"DSN of no server", []string{"--store-dsn-file", dsn},
			`configuration key store.dsn has the value "***": store.driver is sqlite, whose database is a file in the data folder: set store.driver to postgres or mysql, or leave the DSN out`},
		{"prefix of no server", []string{"--store-table-prefix", "x_"},
			`configuration key store.schema has the value "x_": schema and table prefix are for postgres and mysql: leave store.schema and store.table_prefix out`},
		{"schema on mysql", []string{"--store-driver", "mysql", "--store-dsn-file", dsn, "--store-schema", "s"},
			`configuration key store.schema has the value "s" (from --store-schema): mysql has no schemas besides its databases: name the database in the DSN, and leave store.schema out`},
		{"open DSN file", []string{"--store-driver", "mysql", "--store-dsn-file", open},
			`configuration key store.dsn_file has the value "` + open + `": others can read the file (mode 0644): run chmod 600 ` + open},
		{"DSN in a file", []string{"--config", dsnInFile},
			"configuration file " + dsnInFile + ": store.dsn is a secret and does not belong into it: use store.dsn_file or TWOSTEP_STORE_DSN"},
		{"certificate for the embedded broker", []string{"--broker-tls-ca-file", "ca.pem"},
			`configuration key broker.tls.ca_file has the value "ca.pem" (from --broker-tls-ca-file): it is for an external broker: set broker.url too, or leave it out`},
		{"replicas of the embedded broker", []string{"--broker-replicas", "3"},
			`configuration key broker.replicas has the value "3" (from --broker-replicas): the embedded broker is one server: set broker.url to a cluster, or leave it out`},
		{"no number", []string{"--broker-replicas", "many"},
			`configuration key broker.replicas has the value "many" (from --broker-replicas): use a whole number`},
		{"certificate without its key", []string{"--broker-url", "tls://h:1", "--broker-tls-cert-file", "cert.pem"},
			`configuration key broker.tls.cert_file has the value "cert.pem" (from --broker-tls-cert-file): a client certificate needs broker.tls.cert_file and broker.tls.key_file`},
		{"two ways to log in", []string{"--broker-url", "tls://h:1", "--broker-user", "u", "--broker-creds-file", "c"},
			`configuration key broker.creds_file has the value "c" (from --broker-creds-file): keep one of broker.user, broker.creds_file and broker.nkey_file`},
		{"its own broker", []string{"--broker-url", "nats://127.0.0.1:36792"},
			`configuration key broker.url has the value "nats://127.0.0.1:36792" (from --broker-url): that is broker.listen, where this server's own embedded broker would be: leave broker.url out (unset TWOSTEP_BROKER_URL for the server), or name another server`},
		{"open password file", []string{"--broker-url", "nats://h:1", "--broker-password-file", open},
			`configuration key broker.password_file has the value "` + open + `": others can read the file (mode 0644): run chmod 600 ` + open},
		{"absent file", []string{"--config", "nowhere.yaml"},
			"configuration file nowhere.yaml is not there: name another with --config or TWOSTEP_CONFIG"},
		{"other format", []string{"--config", "twostep.ini"},
			"configuration file twostep.ini: its name must end in .yaml, .yml, .toml or .json"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := load(t, tt.args...)
			if err == nil || err.Error() != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
	if _, err := load(t, "--config", broken); err == nil || !strings.Contains(err.Error(), broken) {
		t.Errorf("broken file: %v", err)
	}
}

func TestEveryProblemIsReported(t *testing.T) {
	t.Chdir(t.TempDir())
	_, err := load(t, "--log-level", "loud", "--log-format", "xml")
	var value *ValueError
	if !errors.As(err, &value) || strings.Count(err.Error(), "configuration key") != 2 {
		t.Errorf("got %v", err)
	}
}

func TestSecretsAreNeverPrinted(t *testing.T) {
	t.Chdir(t.TempDir())
	file := write(t, "password", "hunter2\n", 0o600)
	l, err := load(t, "--broker-url", "nats://h:1", "--broker-password-file", file)
	if err != nil {
		t.Fatal(err)
	}
	if string(l.Broker.Password) != "hunter2" {
		t.Fatalf("the file was not read")
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		if out := fmt.Sprintf(format, l.Broker.Password) + fmt.Sprintf(format, l.Config); strings.Contains(out, "hunter2") {
			t.Errorf("%s prints the secret: %s", format, out)
		}
	}
}

func FuzzParseByteSize(f *testing.F) {
	for _, s := range []string{"0", "1", "8GiB", "512 MiB", "-1", "9223372036854775807", "9223372036854775807KiB", "KiB"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		size, err := ParseByteSize(s)
		if err != nil {
			return
		}
		again, err := ParseByteSize(size.String())
		if err != nil || again != size || size < 0 {
			t.Errorf("%q is %d, written as %q, read as %d, %v", s, size, size.String(), again, err)
		}
	})
}

func FuzzFile(f *testing.F) {
	f.Add("http:\n  listen: 127.0.0.1:1\n")
	f.Add("data: [1, 2]\nlog: {level: {a: b}}")
	f.Add("\"\": 1")
	f.Fuzz(func(t *testing.T, content string) {
		path := filepath.Join(t.TempDir(), "f.yaml")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv("TWOSTEP_CONFIG", path)
		if l, err := Load(nil); err == nil {
			if err := l.Validate(); err != nil {
				t.Errorf("loaded, but %v", err)
			}
		}
	})
}
