package kafka

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"strings"
	"time"

	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/scram"
)

// Config says how to reach a Kafka cluster and what to make there. The zero value of a field stands for its default.
type Config struct {
	// Brokers are the addresses (host:port) to begin with, comma-separated; default 127.0.0.1:9092.
	Brokers string
	// TLS encrypts the connections; nil: they are not encrypted, unless one of the files below is given. TLS 1.2 is the least, and the
	// server's certificate is always verified.
	TLS *tls.Config
	// CAFile (PEM) signs the brokers' certificates; empty: the system's authorities do. CertFile and KeyFile show who we are.
	CAFile, CertFile, KeyFile string
	// Mechanism is how User and Password log in: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; empty with a User: SCRAM-SHA-512.
	Mechanism, User, Password string
	// SASL logs in by any other mechanism (OAUTHBEARER, AWS_MSK_IAM); it comes before the three fields above.
	SASL sasl.Mechanism
	// Prefix begins the name of everything on the broker; default "twostep". Installations that share a cluster have different ones.
	Prefix string
	// Name of the client, as the cluster's logs and listings show it; default "twostep".
	Name string
	// Logger gets what is waited out: lost connections, readers made again. nil: nothing is logged.
	Logger *slog.Logger

	// DeclareOff: topics, the state and the topic of requests are made and removed by others. What is missing is ErrNotDeclared, and Plan
	// says what is needed. Inboxes are made here all the same: nobody else knows their names.
	DeclareOff bool
	// Partitions and Replication of topics made from now on; default 1 and the cluster's own default. More partitions let more
	// processes of a subscription work at a time. Inboxes and the state have one partition.
	Partitions, Replication int
	// TopicMaxBytes bounds a topic; default 1 GiB. The oldest messages are dropped beyond it. A topic that is Retained has no bound.
	TopicMaxBytes int64
	// InboxMessages is how many messages nobody has settled yet one inbox takes, ReceiptMessages that for the inbox of an outbox; default
	// 1,000 and 100,000. Several senders at once can go beyond it by what each of them sends.
	InboxMessages, ReceiptMessages int

	// SessionTimeout is after what silence the messages of a reader go to another process; default 6 s, the least that Kafka
	// allows by default (group.min.session.timeout.ms).
	SessionTimeout time.Duration
	// RebalanceTimeout is how long readers wait for each other's handlers when one joins or leaves; default 1 min.
	RebalanceTimeout time.Duration
	// AckTimeout is how long a publish is tried before its message is given up; default 5 s.
	AckTimeout time.Duration
	// MaxInFlight bounds the publishes that wait for their acknowledgement; default 8,192.
	MaxInFlight int
	// MetadataTTL is how often the client asks by itself where partitions are; default 5 s. Errors make it ask at once.
	MetadataTTL time.Duration
}

// prefixPattern leaves out the dot, which ends the prefix in names.
var prefixPattern = regexp.MustCompile(`^[A-Za-z0-9_-]{1,32}$`)

// WithDefaults fills in what is not set.
func (c Config) WithDefaults() Config {
	setDefault(&c.Brokers, "127.0.0.1:9092")
	setDefault(&c.Prefix, "twostep")
	setDefault(&c.Name, "twostep")
	setDefault(&c.Partitions, 1)
	setDefault(&c.Replication, -1)
	setDefault(&c.TopicMaxBytes, 1<<30)
	setDefault(&c.InboxMessages, 1000)
	setDefault(&c.ReceiptMessages, 100_000)
	setDefault(&c.SessionTimeout, 6*time.Second)
	setDefault(&c.RebalanceTimeout, time.Minute)
	setDefault(&c.AckTimeout, 5*time.Second)
	setDefault(&c.MaxInFlight, 8192)
	setDefault(&c.MetadataTTL, 5*time.Second)
	if c.User != "" {
		setDefault(&c.Mechanism, scram.SHA512.Name())
	}
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
		return fmt.Errorf("broker/kafka: prefix %q: use 1 to 32 of A-Z a-z 0-9 _ - (key broker.prefix)", c.Prefix)
	}
	for _, address := range c.addresses() {
		if _, _, err := net.SplitHostPort(address); err != nil {
			return fmt.Errorf("broker/kafka: address %q: use host:port, several with commas between them (key broker.url)", address)
		}
	}
	if c.Partitions < 1 || c.Replication < -1 || c.Replication == 0 {
		return fmt.Errorf("broker/kafka: %d partitions with %d replicas: use 1 or more of each", c.Partitions, c.Replication)
	}
	if c.SessionTimeout < 100*time.Millisecond || c.RebalanceTimeout < c.SessionTimeout {
		return fmt.Errorf("broker/kafka: session timeout %v and rebalance timeout %v: use 100 ms or more, the second not below the first", c.SessionTimeout, c.RebalanceTimeout)
	}
	if c.MaxInFlight < 1 {
		return fmt.Errorf("broker/kafka: %d messages in flight: use 1 or more", c.MaxInFlight)
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		return errors.New("broker/kafka: a client certificate needs both its file and its key's (keys broker.tls.cert_file, broker.tls.key_file)")
	}
	return nil
}

func (c Config) addresses() []string {
	all := strings.Split(c.Brokers, ",")
	for i := range all {
		all[i] = strings.TrimSpace(all[i])
	}
	return all
}
