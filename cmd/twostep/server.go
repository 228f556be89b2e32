package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/twostep-mq/twostep/adapters/api"
	"github.com/twostep-mq/twostep/adapters/telemetry"
	"github.com/twostep-mq/twostep/broker"
	natsbroker "github.com/twostep-mq/twostep/broker/nats"
	"github.com/twostep-mq/twostep/broker/nats/embedded"
	"github.com/twostep-mq/twostep/cmd/internal/database"
	"github.com/twostep-mq/twostep/configs"
	"github.com/twostep-mq/twostep/topics"
)

// server is the whole server in one process: data folder, database, broker, registry and HTTP. `twostep serve` runs one; the
// demo starts one beside its banks.
type server struct {
	cfg      configs.Config
	log      *slog.Logger
	folder   *dataFolder
	listener net.Listener
	embedded *embedded.Server // nil where the broker is an external one
	broker   *natsbroker.Broker
	db       *database.Database
	owner    *topics.Owner

	// failed gets the first error of what runs in the background.
	failed chan error
	// closers undo what was opened; Close runs them from the last to the first.
	closers []closer
	closing sync.Once
	closed  error
}

type closer struct {
	name  string
	close func(context.Context) error
}

// startServer opens everything in order: the folder and the HTTP address first, so that a second server fails before it touches
// anything. When it returns, the API answers and knows the registry. ctx bounds the start alone; end the server with Close.
func startServer(ctx context.Context, cfg configs.Config, log *slog.Logger) (*server, error) {
	s := &server{cfg: cfg, log: log, failed: make(chan error, 1)}
	for _, open := range []func(context.Context) error{s.openFolder, s.listen, s.openBroker, s.openRegistry, s.watchFolder, s.serveHTTP, s.waitForRegistry} {
		if err := open(ctx); err != nil {
			// The start's context may have ended; what was opened is closed all the same.
			return nil, errors.Join(err, s.Close(context.WithoutCancel(ctx)))
		}
	}
	return s, nil
}

// Broker is the server's own connection to the broker.
func (s *server) Broker() broker.Broker { return s.broker }

// Owner is the owner of the registry.
func (s *server) Owner() *topics.Owner { return s.owner }

// URL is where the API answers.
func (s *server) URL() string { return "http://" + s.listener.Addr().String() }

// BrokerURL is where services in other processes find the broker.
func (s *server) BrokerURL() string {
	if s.embedded == nil {
		return s.cfg.Broker.URL
	}
	return s.embedded.ClientURL()
}

// CredentialFile holds user:password for BrokerURL; empty where the broker is an external one.
func (s *server) CredentialFile() string {
	if s.embedded == nil {
		return ""
	}
	return s.embedded.CredentialFile()
}

// Failed gets the error that makes going on useless; the caller then calls Close.
func (s *server) Failed() <-chan error { return s.failed }

// Close drains and ends everything in reverse order of the start, until ctx ends. Only its first call does anything.
func (s *server) Close(ctx context.Context) error {
	s.closing.Do(func() {
		var errs []error
		for i := len(s.closers) - 1; i >= 0; i-- {
			c := s.closers[i]
			s.log.Debug("closing", "what", c.name)
			if err := c.close(ctx); err != nil {
				errs = append(errs, fmt.Errorf("close %s: %w", c.name, err))
			}
		}
		s.closed = errors.Join(errs...)
	})
	return s.closed
}

func (s *server) onClose(name string, fn func(context.Context) error) {
	s.closers = append(s.closers, closer{name, fn})
}

// background runs fn until Close; an error it ends with before that makes the server fail. Close waits for it.
func (s *server) background(name string, fn func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := fn(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errors.New("ended by itself")
		}
		s.fail(fmt.Errorf("%s: %w", name, err))
	}()
	s.onClose(name, func(ctx context.Context) error {
		cancel()
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
}

func (s *server) fail(err error) {
	select {
	case s.failed <- err:
	default: // the first error is the cause
	}
}

func (s *server) openFolder(context.Context) error {
	folder, err := openDataFolder(s.cfg.Data, s.log)
	if err != nil {
		return err
	}
	s.folder = folder
	s.onClose("data folder", func(context.Context) error { return folder.close() })
	return nil
}

// listen takes the HTTP address; nothing is answered before serveHTTP.
func (s *server) listen(ctx context.Context) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", s.cfg.HTTP.Listen)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("address %s is in use: stop the program that listens there, or set http.listen (--http-listen, TWOSTEP_HTTP_LISTEN) to another address", s.cfg.HTTP.Listen)
	}
	if err != nil {
		return fmt.Errorf("listen on %s (key http.listen): %w", s.cfg.HTTP.Listen, err)
	}
	s.listener = l
	s.onClose("HTTP address", func(context.Context) error {
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) { // http.Server closes it, too
			return err
		}
		return nil
	})
	return nil
}

// openBroker starts the embedded broker, or connects to the external one.
func (s *server) openBroker(ctx context.Context) error {
	cfg := natsConfig(s.cfg, "twostep-server", s.log)
	var err error
	if s.cfg.External() {
		ctx, cancel := context.WithTimeout(ctx, connectTimeout)
		defer cancel()
		s.broker, err = natsbroker.Connect(ctx, cfg)
	} else {
		s.embedded, err = embedded.Start(ctx, embedded.Config{
			StoreDir: s.folder.file(brokerFolder), CredentialFile: s.folder.file(credentialFile), Listen: s.cfg.Broker.Listen,
			SyncAlways: s.cfg.Broker.SyncAlways, MaxStore: int64(s.cfg.Broker.MaxBytes), Logger: s.log.With("component", "broker"),
		})
		if err != nil {
			return err
		}
		s.onClose("embedded broker", s.embedded.Shutdown)
		if err := s.folder.note(s.folder.file(brokerFolder)); err != nil {
			return err
		}
		s.broker, err = s.embedded.Connect(ctx, cfg)
	}
	if err != nil {
		return err
	}
	s.onClose("broker connection", s.broker.Close)
	return nil
}

// connectTimeout bounds the first connection to an external broker.
const connectTimeout = 30 * time.Second

// openRegistry opens the server's database and lets the registry's owner run.
func (s *server) openRegistry(ctx context.Context) error {
	db, err := s.openStore(ctx)
	if err != nil {
		return err
	}
	s.db = db
	s.onClose("database", func(context.Context) error { return db.Close() })
	if err := db.Migrate(ctx, database.Orchestrator); err != nil {
		return err
	}
	if db.Kind == database.SQLite {
		if err := s.folder.note(s.folder.file(serverDatabase)); err != nil {
			return err
		}
	}
	store, err := db.Registry(ctx)
	if err != nil {
		return err
	}
	s.owner = topics.NewOwner(store, s.broker, topics.OwnerConfig{Logger: s.log.With("component", "registry")})
	s.background("registry", s.owner.Run)
	return nil
}

// storeConfig is the server's database as configured.
func storeConfig(cfg configs.Config, file string) database.Config {
	c := database.Config{
		Kind: database.Kind(cfg.Store.Driver), DSN: string(cfg.Store.DSN), Schema: cfg.Store.Schema, Prefix: cfg.Store.TablePrefix,
		AllowUnsafeDurability: cfg.Store.AllowUnsafeDurability,
	}
	if c.Kind == database.SQLite {
		c.DSN = file
	}
	return c
}

const (
	// storeRetry is the pause before a database server that does not answer is asked again, storeSay how often that is logged.
	storeRetry = 500 * time.Millisecond
	storeSay   = 10 * time.Second
)

// openStore opens the server's database. One on a server that does not answer yet is waited for; what will not mend itself, as a wrong
// password, ends the start.
func (s *server) openStore(ctx context.Context) (*database.Database, error) {
	c := storeConfig(s.cfg, s.folder.file(serverDatabase))
	var said time.Time
	for {
		db, err := database.Open(ctx, c)
		if !errors.Is(err, database.ErrUnreachable) {
			return db, err
		}
		if time.Since(said) >= storeSay {
			s.log.Warn("waiting for the store", "error", err)
			said = time.Now()
		}
		if !rest(ctx, storeRetry) {
			return nil, fmt.Errorf("the start was ended while waiting for the store: %w", err)
		}
	}
}

// waitForRegistry lets the owner read the broker's state, so that the first request is not refused.
func (s *server) waitForRegistry(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, registryWait)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !s.owner.Running() {
		select {
		case <-tick.C:
		case err := <-s.failed:
			return err
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				s.log.Warn("the registry is not ready yet; /readyz tells when it is", "waited", registryWait)
				return nil
			}
			return fmt.Errorf("start the registry: %w", ctx.Err())
		}
	}
	return nil
}

// registryWait bounds waiting for the registry at the start.
const registryWait = 10 * time.Second

func (s *server) watchFolder(context.Context) error {
	s.background("folder watch", s.folder.watch)
	return nil
}

// serveHTTP answers the API, health and metrics.
func (s *server) serveHTTP(context.Context) error {
	owner := api.RegistryOwner(s.owner)
	metrics, err := telemetry.New(telemetry.Config{Version: version(), Reports: owner.Reports})
	if err != nil {
		return err
	}
	handler := api.NewServer(owner, s.broker, api.Config{
		Logger: s.log.With("component", "api"), Metrics: metrics.Handler(), Checks: s.checks(),
	}).Handler()
	server := api.HTTPServer(metrics.Requests(handler), s.log)
	s.onClose("HTTP requests", func(ctx context.Context) error {
		if err := server.Shutdown(ctx); err != nil {
			return errors.Join(err, server.Close())
		}
		return nil
	})
	go func() {
		if err := server.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
			s.fail(fmt.Errorf("HTTP server: %w", err))
		}
	}()
	return nil
}

// checks of /readyz.
func (s *server) checks() []api.Check {
	return []api.Check{
		{Name: "broker", Run: func(ctx context.Context) error {
			// Nobody answers this name: that the broker says so at once is the proof that it is there.
			_, err := s.broker.Request(ctx, "readyz", nil)
			if errors.Is(err, broker.ErrNoAnswer) && ctx.Err() == nil {
				return nil
			}
			return err
		}},
		{Name: "database", Run: func(ctx context.Context) error {
			if s.db.Kind != database.SQLite {
				return s.db.Reach(ctx)
			}
			var one int
			return s.db.QueryRowContext(ctx, "SELECT 1 FROM twostep_registry").Scan(&one)
		}},
		{Name: "registry", Run: func(context.Context) error {
			if !s.owner.Running() {
				return topics.ErrNotRunning
			}
			return nil
		}},
	}
}
