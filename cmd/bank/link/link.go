// Package link connects a service in a process of its own to the broker, with what `twostep serve` prints: an address and a file
// with the credential.
package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	natsbroker "github.com/twostep-mq/twostep/broker/nats"
)

// Variables that `twostep serve` prints.
const (
	EnvURL            = "TWOSTEP_BROKER_URL"
	EnvCredentialFile = "TWOSTEP_BROKER_CREDENTIAL_FILE"
)

// Address is all that a service needs to know of a twostep installation.
type Address struct {
	URL string
	// CredentialFile holds user:password in one line; empty where the broker asks for none.
	CredentialFile string
}

// FromEnv reads the address from the variables.
func FromEnv() Address {
	return Address{URL: os.Getenv(EnvURL), CredentialFile: os.Getenv(EnvCredentialFile)}
}

// Env writes the variables, for starting another process.
func (a Address) Env() []string {
	return []string{EnvURL + "=" + a.URL, EnvCredentialFile + "=" + a.CredentialFile}
}

// Connect connects under the name, which the broker's listings show.
func (a Address) Connect(ctx context.Context, name string, log *slog.Logger) (*natsbroker.Broker, error) {
	if a.URL == "" {
		return nil, errors.New("no broker address: set " + EnvURL + " to what twostep serve prints")
	}
	cfg := natsbroker.Config{URL: a.URL, Name: name, Logger: log}
	if a.CredentialFile != "" {
		raw, err := os.ReadFile(a.CredentialFile)
		if err != nil {
			return nil, fmt.Errorf("read the broker's credential (%s): %w", EnvCredentialFile, err)
		}
		var ok bool
		if cfg.User, cfg.Password, ok = strings.Cut(strings.TrimSpace(string(raw)), ":"); !ok {
			return nil, fmt.Errorf("%s (%s) is not one line of user:password", a.CredentialFile, EnvCredentialFile)
		}
	}
	return natsbroker.Connect(ctx, cfg)
}
