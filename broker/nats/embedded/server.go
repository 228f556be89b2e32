// Package embedded runs a NATS server with JetStream inside this process, for the default without configuration and for
// tests. It alone links the server.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/gofrs/flock"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	natsbroker "github.com/twostep-mq/twostep/broker/nats"
)

// Config of the server in this process. The zero value of a field stands for its default.
type Config struct {
	// StoreDir holds the streams; required. A lock in it keeps a second server out.
	StoreDir string
	// Listen is the loopback address for clients in other processes, as "127.0.0.1:36792"; port 0: any free one. Empty: this
	// process alone is served.
	Listen string
	// CredentialFile keeps the generated user and password, readable by this user alone; default StoreDir with
	// ".credential" appended, so that it outlives the streams. It is used again when it is there.
	CredentialFile string
	// SyncAlways flushes every message to the disk before it is acknowledged: slower by a factor of thirty, and not needed
	// for confirmed delivery.
	SyncAlways bool
	// MaxStore bounds all streams together; default 256 GiB. It only limits what streams may reserve: the disk may be smaller.
	MaxStore int64
	// ReadyWait is how long Start waits until the server has recovered its streams; default 30 s.
	ReadyWait time.Duration
	// Logger gets the server's warnings and errors. nil: nothing is logged.
	Logger *slog.Logger
}

const (
	// maxMemory bounds streams in memory. Only the consumers of state watches live there.
	maxMemory = 64 << 20
	// topicMaxBytes is the default bound of a topic of the server in this process.
	topicMaxBytes = 256 << 20
	lockName      = "server.lock"
)

func (c Config) withDefaults() Config {
	if c.CredentialFile == "" {
		c.CredentialFile = filepath.Clean(c.StoreDir) + ".credential"
	}
	if c.MaxStore == 0 {
		c.MaxStore = 256 << 30
	}
	if c.ReadyWait == 0 {
		c.ReadyWait = 30 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Server is a running NATS server.
type Server struct {
	cfg        Config
	credential Credential
	lock       *flock.Flock
	// host and port it listens on, as the first start found them.
	host string
	port int

	mu sync.Mutex
	ns *server.Server // another one after a repair
	// stop ends the watch for write errors, watching is closed when it has ended.
	stop     context.CancelFunc
	watching chan struct{}
}

// Start starts the server and waits until it takes connections.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	cfg = cfg.withDefaults()
	if cfg.StoreDir == "" {
		return nil, errors.New("broker/nats/embedded: no folder for the streams given (Config.StoreDir)")
	}
	host, port, err := listenAddress(cfg.Listen)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.StoreDir, 0o700); err != nil {
		return nil, fmt.Errorf("broker/nats/embedded: make the broker's folder: %w", err)
	}
	lock := flock.New(filepath.Join(cfg.StoreDir, lockName))
	got, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("broker/nats/embedded: lock the broker's folder %s: %w", cfg.StoreDir, err)
	}
	if !got {
		return nil, fmt.Errorf("broker/nats/embedded: folder %s is in use by another broker: stop the other process or choose another data folder", cfg.StoreDir)
	}
	s := &Server{cfg: cfg, lock: lock, host: host, port: port, watching: make(chan struct{})}
	if err := s.begin(ctx); err != nil {
		return nil, errors.Join(err, lock.Unlock())
	}
	return s, nil
}

func (s *Server) begin(ctx context.Context) error {
	var err error
	if s.credential, err = loadCredential(s.cfg.CredentialFile); err != nil {
		return err
	}
	if s.cfg.Listen != "" {
		if err := checkFree(ctx, s.host, s.port); err != nil {
			return err
		}
	}
	broken, err := s.start(ctx)
	if err != nil {
		return err
	}
	if addr, ok := s.ns.Addr().(*net.TCPAddr); ok && s.cfg.Listen != "" {
		s.port = addr.Port // clients come back to it after a repair
	}
	ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		defer close(s.watching)
		s.repair(ctx, broken)
	}()
	return nil
}

// start starts a NATS server and waits until it works. broken tells of the first write error it has.
func (s *Server) start(ctx context.Context) (broken <-chan string, err error) {
	ns, err := server.NewServer(s.options())
	if err != nil {
		return nil, fmt.Errorf("broker/nats/embedded: start the broker: %w", err)
	}
	logs := &serverLog{log: s.cfg.Logger, fatal: make(chan string, 1), broken: make(chan string, 1)}
	ns.SetLoggerV2(logs, false, false, false)
	ns.Start()
	if err := s.waitReady(ctx, ns, logs.fatal); err != nil {
		ns.Shutdown()
		ns.WaitForShutdown()
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ns = ns
	return logs.broken, nil
}

// current is the server as it runs now.
func (s *Server) current() *server.Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ns
}

func (s *Server) options() *server.Options {
	port := s.port
	if port == 0 {
		port = server.RANDOM_PORT
	}
	return &server.Options{
		ServerName:             "twostep-embedded",
		Host:                   s.host,
		Port:                   port,
		DontListen:             s.cfg.Listen == "",
		Username:               s.credential.User,
		Password:               s.credential.Password,
		JetStream:              true,
		StoreDir:               s.cfg.StoreDir,
		JetStreamMaxStore:      s.cfg.MaxStore,
		JetStreamMaxMemory:     maxMemory,
		SyncAlways:             s.cfg.SyncAlways,
		NoSigs:                 true,
		DisableJetStreamBanner: true,
	}
}

// waitReady waits for connections, or for what the server reports as fatal.
func (s *Server) waitReady(ctx context.Context, ns *server.Server, fatal <-chan string) error {
	ready := make(chan bool, 1)
	go func() { ready <- ns.ReadyForConnections(s.cfg.ReadyWait) }()
	select {
	case ok := <-ready:
		if !ok {
			return fmt.Errorf("broker/nats/embedded: the broker was not ready within %v", s.cfg.ReadyWait)
		}
		if !ns.JetStreamEnabled() {
			return fmt.Errorf("broker/nats/embedded: the broker runs without its streams: is folder %s writable?", s.cfg.StoreDir)
		}
		return nil
	case reason := <-fatal:
		return fmt.Errorf("broker/nats/embedded: the broker did not start: %s", reason)
	case <-ctx.Done():
		return fmt.Errorf("broker/nats/embedded: start the broker: %w", ctx.Err())
	}
}

// listenAddress accepts loopback addresses alone.
func listenAddress(listen string) (host string, port int, err error) {
	if listen == "" {
		return "", 0, nil
	}
	host, text, err := net.SplitHostPort(listen)
	if err != nil {
		return "", 0, fmt.Errorf("broker/nats/embedded: address %q (key broker.listen): %w: write it as 127.0.0.1:36792", listen, err)
	}
	port, err = strconv.Atoi(text)
	if err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("broker/nats/embedded: port %q (key broker.listen): use 0 to 65535", text)
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return "", 0, fmt.Errorf("broker/nats/embedded: address %q (key broker.listen) is not a loopback address: the built-in broker has no TLS; use 127.0.0.1, or an external NATS server", listen)
	}
	return host, port, nil
}

// checkFree reports a port in use in words: the server itself would only log it.
func checkFree(ctx context.Context, host string, port int) error {
	if port == 0 {
		return nil
	}
	address := net.JoinHostPort(host, strconv.Itoa(port))
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("broker/nats/embedded: address %s is in use: stop the program that listens there, or set broker.listen to another address: %w", address, err)
	}
	if err != nil {
		return fmt.Errorf("broker/nats/embedded: listen on %s (key broker.listen): %w", address, err)
	}
	return l.Close()
}

// ClientURL is where other processes connect, without the credential; empty if the server does not listen.
func (s *Server) ClientURL() string {
	if s.cfg.Listen == "" {
		return ""
	}
	return s.current().ClientURL()
}

// Credential is what clients log in with.
func (s *Server) Credential() Credential { return s.credential }

// CredentialFile is where the credential lies.
func (s *Server) CredentialFile() string { return s.cfg.CredentialFile }

// Connect makes a connection within this process, with the server's credential.
func (s *Server) Connect(ctx context.Context, cfg natsbroker.Config) (*natsbroker.Broker, error) {
	cfg.URL = "nats://embedded"
	cfg.User, cfg.Password, cfg.Token, cfg.CredsFile = s.credential.User, s.credential.Password, "", ""
	if cfg.TopicMaxBytes == 0 {
		cfg.TopicMaxBytes = topicMaxBytes
	}
	if cfg.InboxMaxBytes == 0 {
		cfg.InboxMaxBytes = topicMaxBytes
	}
	return natsbroker.Connect(ctx, cfg, nats.InProcessServer(inProcess{s}))
}

// Shutdown ends the server. Consumers and connections of this process are to be ended before. What is not flushed is, then.
func (s *Server) Shutdown(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		s.stop()
		<-s.watching
		s.current().Shutdown()
		s.current().WaitForShutdown()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		return fmt.Errorf("broker/nats/embedded: shut the broker down: %w", ctx.Err())
	}
	if err := s.lock.Unlock(); err != nil {
		return fmt.Errorf("broker/nats/embedded: unlock the broker's folder: %w", err)
	}
	return nil
}
