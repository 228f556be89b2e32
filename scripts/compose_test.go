package scripts

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/viper"
)

// composed is what compose.yaml says of one server.
type composed struct {
	Ports       []string
	Environment map[string]string
	Command     []string
	Configs     []struct{ Source, Target string }
}

// TestComposeIsTheSame: compose.yaml starts what services.sh does, on the same ports, for the same user, with the same settings.
func TestComposeIsTheSame(t *testing.T) {
	v := viper.New()
	v.SetConfigFile("../compose.yaml")
	if err := v.ReadInConfig(); err != nil {
		t.Fatal(err)
	}
	var compose struct {
		Services map[string]composed
		Configs  map[string]struct{ Content string }
	}
	if err := v.Unmarshal(&compose); err != nil {
		t.Fatal(err)
	}
	script := read(t, "services.sh") + read(t, "mysql8.sh")
	account := compose.Configs["account"].Content
	for name, want := range map[string]struct {
		port     string // the script's variable
		settings []string
		// here are settings that a container does not have: it listens to whoever Docker lets in, and runs in a folder of its own.
		here *regexp.Regexp
	}{
		"postgres": {"TWOSTEP_POSTGRES_PORT", assignments(t, script, "postgresql.conf"), regexp.MustCompile(`^(listen_addresses|unix_socket_directories)=`)},
		"mariadb":  {"TWOSTEP_MYSQL_PORT", flagsOf(t, script, `"\$server" --no-defaults`), serverFolder()},
		"mysql":    {"TWOSTEP_MYSQL8_PORT", flagsOf(t, script, `"\$home/mysqld" --datadir`), serverFolder()},
		"redis":    {"TWOSTEP_REDIS_PORT", redisSettings(t, script), regexp.MustCompile(`^(bind|port|dir|pidfile|logfile|daemonize)=`)},
	} {
		t.Run(name, func(t *testing.T) {
			c, ok := compose.Services[name]
			if !ok {
				t.Fatal("compose.yaml has no such service")
			}
			port := regexp.MustCompile(want.port + `:-(\d+)\}`).FindStringSubmatch(script)
			if port == nil {
				t.Fatalf("the scripts name no port %s", want.port)
			}
			published := fmt.Sprintf("127.0.0.1:${%s:-%s}:", want.port, port[1])
			if len(c.Ports) != 1 || !strings.HasPrefix(c.Ports[0], published) {
				t.Errorf("ports %q, want %s…", c.Ports, published)
			}
			want.settings = slices.DeleteFunc(want.settings, want.here.MatchString)
			if len(want.settings) < 3 {
				t.Fatalf("the scripts set only %q", want.settings)
			}
			got := settingsOf(c.Command)
			slices.Sort(want.settings)
			slices.Sort(got)
			if !slices.Equal(got, want.settings) {
				t.Errorf("settings\n%q, the scripts have\n%q", got, want.settings)
			}
			text := fmt.Sprint(c.Environment, c.Command)
			if slices.ContainsFunc(c.Configs, func(s struct{ Source, Target string }) bool { return s.Source == "account" }) {
				text += account
			}
			if !strings.Contains(text, "${TWOSTEP_PASSWORD:?") || name != "redis" && !strings.Contains(text, "twostep") {
				t.Errorf("the user is not twostep, or the password not one's own: %s", text)
			}
		})
	}
	if len(compose.Services) != 4 {
		t.Errorf("%d services", len(compose.Services))
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// serverFolder are the flags of mariadbd and mysqld that say where a server's files are and who may come in.
func serverFolder() *regexp.Regexp {
	return regexp.MustCompile(`^(datadir|tmpdir|init-file|port|bind-address|socket|pid-file|log-error)=`)
}

// assignments are the settings "name = value" in the text that goes to a file.
func assignments(t *testing.T, script, file string) []string {
	t.Helper()
	return lines(t, script, regexp.QuoteMeta(file)+`"[^\n]*<<-CONF\n`, " = ")
}

// redisSettings are the lines "name value" of Redis' configuration.
func redisSettings(t *testing.T, script string) []string {
	t.Helper()
	return lines(t, script, `"\$conf"[^\n]*<<-CONF\n`, " ")
}

func lines(t *testing.T, script, before, between string) []string {
	t.Helper()
	found := regexp.MustCompile(`(?s)` + before + `(.*?)\n\s*CONF\n`).FindStringSubmatch(script)
	if found == nil {
		t.Fatalf("the scripts have no text after %s", before)
	}
	var all []string
	for line := range strings.Lines(found[1]) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), between)
		if !ok {
			t.Fatalf("%q is no setting", line)
		}
		all = append(all, setting(name, value))
	}
	return all
}

// flagsOf are the flags of the command that begins so.
func flagsOf(t *testing.T, script, begin string) []string {
	t.Helper()
	found := regexp.MustCompile(`(?s)` + begin + `.*?</dev/null`).FindString(script)
	if found == "" {
		t.Fatalf("the scripts have no command %s", begin)
	}
	var all []string
	for _, flag := range regexp.MustCompile(`--[a-z0-9-]+(=\S+)?`).FindAllString(found, -1) {
		if flag != "--no-defaults" {
			all = append(all, strings.TrimPrefix(flag, "--"))
		}
	}
	return all
}

// settingsOf are the settings of a container's command: --name=value, and --name value as Redis has them.
func settingsOf(command []string) []string {
	var all []string
	for i, word := range command {
		name, isFlag := strings.CutPrefix(word, "--")
		switch {
		case !isFlag:
		case strings.Contains(name, "=") || command[0] != "redis-server":
			all = append(all, name)
		default:
			all = append(all, setting(name, command[i+1]))
		}
	}
	return all
}

// setting writes one, without a password and quotes.
func setting(name, value string) string {
	if name == "requirepass" {
		value = "…"
	}
	return name + "=" + strings.Trim(value, `'"`)
}
