package api

import (
	"context"
	"net/http"
	"time"
)

// healthz says that the process lives and answers; nothing else is looked at.
func (s *Server) healthz(*http.Request) (int, any, error) {
	return http.StatusOK, Health{OK: true}, nil
}

// readyz runs all checks, each within two seconds.
func (s *Server) readyz(r *http.Request) (int, any, error) {
	ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
	defer cancel()
	health, status := Health{OK: true, Checks: map[string]string{}}, http.StatusOK
	for _, check := range s.cfg.Checks {
		health.Checks[check.Name] = "ok"
		if err := check.Run(ctx); err != nil {
			health.Checks[check.Name] = err.Error()
			health.OK, status = false, http.StatusServiceUnavailable
		}
	}
	return status, health, nil
}
