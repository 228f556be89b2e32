package nats

import (
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"time"
)

// Config says how to reach a NATS server and what to make there. The zero value of a field stands for its default.
type Config struct {
	// URL of the server or, comma-separated, of several of one cluster; default nats://127.0.0.1:4222.
	URL string
	// User and Password, or Token, or CredsFile (a NATS credentials file), or NKeyFile (the seed of an nkey) authenticate. All may be empty.
	User, Password, Token, CredsFile, NKeyFile string
	// CAFile (PEM) signs the server's certificate; empty: the system's authorities do. CertFile and KeyFile show who we are. TLS is used
	// where the URL begins with tls://, one of these is set, or the server asks for it; it is version 1.2 or later, and the certificate is
	// always verified.
	CAFile, CertFile, KeyFile string
	// Prefix begins the name of everything on the broker; default "twostep". Installations that share a NATS account have
	// different ones.
	Prefix string
	// Name of the connection, as the server's listings show it; default "twostep".
	Name string
	// Logger gets what is waited out: lost connections, readers made again. nil: nothing is logged.
	Logger *slog.Logger

	// DeclareOff leaves making streams to others: a missing one is ErrNotDeclared. Plan says what is needed.
	DeclareOff bool
	// Replicas of every stream; default 1.
	Replicas int
	// TopicMaxBytes bounds the stream of one topic; default 1 GiB. The oldest messages are dropped beyond it, or new ones
	// refused if the topic is Retained. The server reserves this much of its storage limit for each topic.
	TopicMaxBytes int64
	// InboxMaxBytes and StateMaxBytes bound the two inbox streams and the state stream; default 1 GiB and 256 MiB.
	InboxMaxBytes, StateMaxBytes int64
	// InboxMessages bounds one inbox, ReceiptMessages the inbox of an outbox; default 1,000 and 100,000 messages.
	InboxMessages, ReceiptMessages int64

	// AckWait is after what silence of a reader its messages are delivered again; default 10 s. Readers that live extend it.
	AckWait time.Duration
	// PinTTL is after what silence another process takes over a keyed subscription or an inbox; default 3 s.
	PinTTL time.Duration
	// AckTimeout is how long a publish waits for its acknowledgement, or for the connection to come back; default 5 s.
	AckTimeout time.Duration
	// MaxInFlight bounds the publishes that wait for their acknowledgement; default 8,192.
	MaxInFlight int
	// ReconnectWait is the pause between two attempts to connect; default 100 ms (and up to half of it at random on top).
	ReconnectWait time.Duration
}

// prefixPattern is what a stream name and a subject token both allow.
var prefixPattern = regexp.MustCompile(`^[A-Za-z0-9_-]{1,32}$`)

// WithDefaults fills in what is not set.
func (c Config) WithDefaults() Config {
	setDefault(&c.URL, "nats://127.0.0.1:4222")
	setDefault(&c.Prefix, "twostep")
	setDefault(&c.Name, "twostep")
	setDefault(&c.Replicas, 1)
	setDefault(&c.TopicMaxBytes, 1<<30)
	setDefault(&c.InboxMaxBytes, 1<<30)
	setDefault(&c.StateMaxBytes, 256<<20)
	setDefault(&c.InboxMessages, 1000)
	setDefault(&c.ReceiptMessages, 100_000)
	setDefault(&c.AckWait, 10*time.Second)
	setDefault(&c.PinTTL, 3*time.Second)
	setDefault(&c.AckTimeout, 5*time.Second)
	setDefault(&c.MaxInFlight, 8192)
	setDefault(&c.ReconnectWait, 100*time.Millisecond)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func (c Config) validate() error {
	if !prefixPattern.MatchString(c.Prefix) {
		return fmt.Errorf("broker/nats: prefix %q: use 1 to 32 of A-Z a-z 0-9 _ - (key broker.prefix)", c.Prefix)
	}
	if c.MaxInFlight < 1 || c.MaxInFlight > maxSlots {
		return fmt.Errorf("broker/nats: %d messages in flight: use 1 to %d", c.MaxInFlight, maxSlots)
	}
	if c.AckWait < 100*time.Millisecond || c.PinTTL < 100*time.Millisecond {
		return fmt.Errorf("broker/nats: acknowledgement wait %v and pin time %v: use 100 ms or more", c.AckWait, c.PinTTL)
	}
	ways := 0
	for _, set := range []bool{c.User != "" || c.Password != "", c.Token != "", c.CredsFile != "", c.NKeyFile != ""} {
		if set {
			ways++
		}
	}
	if ways > 1 {
		return errors.New("broker/nats: choose one of user and password, token, creds file and nkey file (keys broker.user, broker.token, broker.creds_file, broker.nkey_file)")
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		return errors.New("broker/nats: a client certificate needs both its file and its key's (keys broker.tls.cert_file, broker.tls.key_file)")
	}
	return nil
}
