package embedded

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
)

// credentialUser is the user name of generated credentials.
const credentialUser = "twostep"

// Credential is a user name and a password. It prints without the password.
type Credential struct{ User, Password string }

// String hides the password.
func (c Credential) String() string { return c.User + ":***" }

// GoString hides the password.
func (c Credential) GoString() string { return c.String() }

// LogValue hides the password.
func (c Credential) LogValue() slog.Value { return slog.StringValue(c.String()) }

// loadCredential reads the file ("user:password" in one line), or makes it with a new random password.
func loadCredential(path string) (Credential, error) {
	c, err := readCredential(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return c, err
	}
	c = Credential{User: credentialUser, Password: rand.Text()}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return Credential{}, fmt.Errorf("broker/nats/embedded: make the credential's folder: %w", err)
	}
	// A file under another name first: a crash never leaves half a credential.
	temp, err := os.CreateTemp(filepath.Dir(path), ".credential-*") // mode 0600
	if err != nil {
		return Credential{}, fmt.Errorf("broker/nats/embedded: write the credential: %w", err)
	}
	_, err = temp.WriteString(c.User + ":" + c.Password + "\n")
	err = errors.Join(err, temp.Sync(), temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		return Credential{}, errors.Join(fmt.Errorf("broker/nats/embedded: write the credential: %w", err), os.Remove(temp.Name()))
	}
	return c, nil
}

func readCredential(path string) (Credential, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Credential{}, fmt.Errorf("broker/nats/embedded: read the credential: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return Credential{}, fmt.Errorf("broker/nats/embedded: others may read the credential %s (mode %04o): chmod 600 it, or delete it to get a new one", path, info.Mode().Perm())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return Credential{}, fmt.Errorf("broker/nats/embedded: read the credential: %w", err)
	}
	user, password, ok := strings.Cut(strings.TrimSpace(string(text)), ":")
	if !ok || user == "" || password == "" {
		return Credential{}, fmt.Errorf("broker/nats/embedded: %s is not one line of user:password: delete it to get a new one", path)
	}
	return Credential{User: user, Password: password}, nil
}
