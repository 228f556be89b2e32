// Package api is twostep's native HTTP interface: the server behind /api/v1, /healthz, /readyz and /metrics, and the Go
// client that the command line uses. Routes come from one table (Routes); docs/reference.md lists them with their JSON.
package api

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/twostep-mq/twostep/outbox"
)

// Owner is the owner of the registry, as the API needs it. Its errors are *Problem where the caller can do something
// about them; anything else becomes an internal error.
type Owner interface {
	Topics(ctx context.Context) ([]Topic, error)
	// Topic returns CodeNotFound for an unknown or deleted one.
	Topic(ctx context.Context, name string) (Topic, error)
	// CreateTopic is idempotent; CodeConflict where the topic exists with other settings.
	CreateTopic(ctx context.Context, name string, s outbox.TopicSettings) (Topic, error)
	// DeleteTopic refuses with CodeConflict while messages are in flight, unless forced; it then says what it left.
	DeleteTopic(ctx context.Context, name string, force bool) (left string, err error)
	Subscribe(ctx context.Context, topic, name string) (Subscription, error)
	Unsubscribe(ctx context.Context, topic, name string) error
	// Reports are the latest ones of all outboxes that are not forgotten; At is 0 where there is none.
	Reports(ctx context.Context) ([]outbox.Report, error)
	ForgetOutbox(ctx context.Context, uuid string) error
}

// Asker asks other processes over the broker: relays and dispatchers. broker.Broker is one.
type Asker interface {
	Request(ctx context.Context, name string, body []byte) ([]byte, error)
}

// Check is one thing that must be well for /readyz.
type Check struct {
	Name string
	Run  func(context.Context) error
}

// Config is what a Server may be given besides its ports.
type Config struct {
	// Checks of /readyz.
	Checks []Check
	// Metrics serves /metrics; nil: there are none.
	Metrics http.Handler
	// Logger takes changes, failures and views of payloads; nil: slog.Default.
	Logger *slog.Logger
	// AskTimeout bounds one question to another process; 0: 2 s.
	AskTimeout time.Duration
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Server answers the API.
type Server struct {
	owner Owner
	ask   Asker
	cfg   Config
}

// NewServer puts a server together.
func NewServer(owner Owner, ask Asker, cfg Config) *Server {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.AskTimeout == 0 {
		cfg.AskTimeout = 2 * time.Second
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Server{owner: owner, ask: ask, cfg: cfg}
}

// Handler is the server's whole HTTP interface.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	for _, route := range Routes() {
		mux.HandleFunc(route.Method+" "+route.Path, s.serve(route))
	}
	if s.cfg.Metrics != nil {
		mux.Handle("GET /metrics", s.cfg.Metrics)
	}
	mux.HandleFunc("/", s.noRoute(mux))
	protected := http.NewCrossOriginProtection()
	protected.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		p := &Problem{Code: CodeForbidden, Message: "a page of another site sent this request", Hint: "changes come from the command line or from this server's own pages"}
		writeJSON(w, p.status(), problemBody{p})
	}))
	return onlyLoopbackHosts(protected.Handler(mux))
}

// HTTPServer wraps the handler with the time and size limits of a server that may meet slow or hostile clients.
func HTTPServer(h http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      60 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
}

// serve turns a route's function into a handler.
func (s *Server) serve(route Route) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, MaxBody)
		status, body, err := route.serve(s, r)
		if err != nil {
			p := asProblem(err)
			if p.Code == CodeInternal {
				s.cfg.Logger.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path, "error", err)
			}
			writeJSON(w, p.status(), problemBody{p})
			return
		}
		if route.Changes() {
			s.cfg.Logger.InfoContext(r.Context(), "changed by request", "method", r.Method, "path", r.URL.Path)
		}
		if body == nil {
			w.WriteHeader(status)
			return
		}
		writeJSON(w, status, body)
	}
}

// noRoute answers what no route is for: with the methods that the path does have, if any.
func (s *Server) noRoute(mux *http.ServeMux) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var allowed []string
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodDelete} {
			other := r.Clone(r.Context())
			other.Method = method
			if _, pattern := mux.Handler(other); pattern != "/" {
				allowed = append(allowed, method)
			}
		}
		p := notFound("docs/reference.md lists the routes", "there is nothing at %s", r.URL.Path)
		if len(allowed) > 0 {
			w.Header().Set("Allow", strings.Join(allowed, ", "))
			p = &Problem{Code: CodeMethod, Message: r.Method + " is not for " + r.URL.Path, Hint: "it takes " + strings.Join(allowed, ", ")}
		}
		writeJSON(w, p.status(), problemBody{p})
	}
}

// onlyLoopbackHosts refuses requests under another name than this machine's own: a page whose name was made to resolve to
// 127.0.0.1 (DNS rebinding) would else pass for same-origin.
func onlyLoopbackHosts(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
		if host != "localhost" && (err != nil || !ip.IsLoopback()) {
			p := &Problem{Code: CodeForbidden, Message: "the request names another host than this machine", Hint: "use 127.0.0.1 or localhost"}
			writeJSON(w, p.status(), problemBody{p})
			return
		}
		next.ServeHTTP(w, r)
	})
}
