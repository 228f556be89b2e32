package configs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"
)

// DefaultFile is read from the working directory when no file is named and it is there.
const DefaultFile = "twostep.yaml"

// Loaded is a configuration and where it came from.
type Loaded struct {
	Config
	// File that was read; empty: none.
	File string
	// Sources names, for each key that is not at its default, where its value came from.
	Sources map[string]string
}

// UnknownKeyError is a key in a file that means nothing.
type UnknownKeyError struct {
	File, Key, Nearest string
}

func (e *UnknownKeyError) Error() string {
	return fmt.Sprintf("configuration file %s: unknown key %s; did you mean %s? (twostep config show lists all keys)", e.File, e.Key, e.Nearest)
}

// Load puts the configuration together: defaults, then the file, then TWOSTEP_* variables, then flags that were set.
// The file is --config, else TWOSTEP_CONFIG, else ./twostep.yaml if it is there. fs has the flags of AddFlags; nil: no
// flags. Errors name the key or the file and what to do.
func Load(flags *pflag.FlagSet) (*Loaded, error) {
	l := &Loaded{Config: Defaults(), Sources: map[string]string{}}
	v := viper.New()
	if err := l.readFile(v, flags); err != nil {
		return nil, err
	}
	keys := l.Keys()
	for _, k := range keys {
		if err := v.BindEnv(k.Name, k.Env()); err != nil {
			return nil, fmt.Errorf("configs: bind %s: %w", k.Env(), err)
		}
		if f := lookup(flags, k.Flag()); f != nil {
			if err := v.BindPFlag(k.Name, f); err != nil {
				return nil, fmt.Errorf("configs: bind --%s: %w", k.Flag(), err)
			}
		}
	}
	for _, k := range keys {
		if err := l.take(v, flags, k); err != nil {
			return nil, err
		}
	}
	for _, s := range []struct {
		key, file, env string
		secret         *Secret
	}{
		{"broker.password_file", l.Broker.PasswordFile, "TWOSTEP_BROKER_PASSWORD", &l.Broker.Password},
		{"store.dsn_file", l.Store.DSNFile, "TWOSTEP_STORE_DSN", &l.Store.DSN},
	} {
		if s.file == "" {
			continue
		}
		if *s.secret != "" {
			return nil, &ValueError{Key: s.key, Value: s.file, Why: s.env + " is set too: keep one of them"}
		}
		secret, err := readSecretFile(s.key, s.file)
		if err != nil {
			return nil, err
		}
		*s.secret = secret
	}
	if err := l.Validate(); err != nil {
		return nil, l.withSources(err)
	}
	return l, nil
}

// withSources adds to every ValueError where the value came from.
func (l *Loaded) withSources(err error) error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			var value *ValueError
			if errors.As(e, &value) {
				value.Source = l.Sources[value.Key]
			}
		}
	}
	return err
}

// readFile finds and reads the file, and refuses keys that mean nothing.
func (l *Loaded) readFile(v *viper.Viper, flags *pflag.FlagSet) error {
	path := os.Getenv("TWOSTEP_CONFIG")
	if f := lookup(flags, "config"); f != nil && f.Changed {
		path = f.Value.String()
	}
	if path == "" {
		if _, err := os.Stat(DefaultFile); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		path = DefaultFile
	}
	switch strings.ToLower(filepath.Ext(path)) {
	case ".yaml", ".yml", ".toml", ".json":
	default:
		return fmt.Errorf("configuration file %s: its name must end in .yaml, .yml, .toml or .json", path)
	}
	v.SetConfigFile(path)
	if err := v.ReadInConfig(); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("configuration file %s is not there: name another with --config or TWOSTEP_CONFIG", path)
		}
		return fmt.Errorf("configuration file %s cannot be read: %w", path, err)
	}
	l.File = path
	return l.checkKeys(v)
}

// checkKeys refuses unknown keys, and secrets, in a file.
func (l *Loaded) checkKeys(v *viper.Viper) error {
	keys := l.Keys()
	found := v.AllKeys()
	slices.Sort(found)
	for _, name := range found {
		i := slices.IndexFunc(keys, func(k Key) bool { return k.Name == name })
		if i < 0 {
			if first := firstOf(name, keys); first != "" {
				if v.Get(name) == nil { // as `http:` with nothing below it
					continue
				}
				return fmt.Errorf("configuration file %s: %s holds further keys, as %s, and no value of its own", l.File, name, first)
			}
			return &UnknownKeyError{File: l.File, Key: name, Nearest: nearest(name, keys)}
		}
		if keys[i].Secret {
			return fmt.Errorf("configuration file %s: %s is a secret and does not belong into it: use %s_file or %s",
				l.File, name, name, keys[i].Env())
		}
	}
	return nil
}

// firstOf returns the first key of the section called name; empty: there is no such section.
func firstOf(name string, keys []Key) string {
	for _, k := range keys {
		if strings.HasPrefix(k.Name, name+".") {
			return k.Name
		}
	}
	return ""
}

// take stores the value of one key, if it is set anywhere, and notes its source.
func (l *Loaded) take(v *viper.Viper, flags *pflag.FlagSet, k Key) error {
	var source string
	switch f := lookup(flags, k.Flag()); {
	case f != nil && f.Changed:
		source = "--" + k.Flag()
	case os.Getenv(k.Env()) != "":
		source = k.Env()
	case v.InConfig(k.Name):
		source = l.File
	default:
		return nil
	}
	raw := v.Get(k.Name)
	if raw == nil { // `key:` with nothing behind it in a file
		return nil
	}
	if err := assign(k.place, raw); err != nil {
		value := fmt.Sprint(raw)
		if k.Secret {
			value = masked
		}
		return &ValueError{Key: k.Name, Value: value, Why: err.Error(), Source: source}
	}
	l.Sources[k.Name] = source
	return nil
}

func lookup(flags *pflag.FlagSet, name string) *pflag.Flag {
	if flags == nil || name == "" {
		return nil
	}
	return flags.Lookup(name)
}
