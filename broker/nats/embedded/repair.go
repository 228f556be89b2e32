package embedded

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

const (
	// repairEvery is how often a broker that cannot write looks whether there is room.
	repairEvery = time.Second
	// repairRoom is how much must fit before it is started again, so that it does not stop at once again.
	repairRoom = 4 << 20
)

// repair starts the server again after a write error (a full disk, mostly) as soon as there is room: its streams take nothing more
// until then, even when there is. It may lose what it had acknowledged; the outboxes have it. It returns when ctx ends.
func (s *Server) repair(ctx context.Context, broken <-chan string) {
	for {
		var reason string
		select {
		case <-ctx.Done():
			return
		case reason = <-broken:
		}
		s.cfg.Logger.Error("the broker cannot write and takes nothing: make room on its disk, then it goes on by itself; messages wait in their outboxes",
			"folder", s.cfg.StoreDir, "error", reason)
		var err error
		if broken, err = s.restart(ctx); err != nil {
			return // ctx ended
		}
		s.cfg.Logger.Info("the broker writes again", "folder", s.cfg.StoreDir)
	}
}

// restart waits for room and starts another server in the place of the broken one. It tries until ctx ends.
func (s *Server) restart(ctx context.Context) (broken <-chan string, err error) {
	tick := time.NewTicker(repairEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
		if s.room() != nil {
			continue
		}
		s.current().Shutdown()
		s.current().WaitForShutdown()
		if broken, err = s.start(ctx); err == nil {
			return broken, nil
		}
		s.cfg.Logger.Warn("the broker does not start; it is tried again", "folder", s.cfg.StoreDir, "error", err)
	}
}

// room reports whether repairRoom bytes can be written.
func (s *Server) room() (err error) {
	probe, err := os.CreateTemp(s.cfg.StoreDir, ".room-*")
	if err != nil {
		return fmt.Errorf("broker/nats/embedded: look for room: %w", err)
	}
	defer func() { err = errors.Join(err, probe.Close(), os.Remove(probe.Name())) }()
	if _, err := probe.Write(make([]byte, repairRoom)); err != nil {
		return err
	}
	return probe.Sync()
}

// inProcess gives connections of this process the server as it runs now.
type inProcess struct{ s *Server }

// InProcessConn implements nats.InProcessConnProvider.
func (p inProcess) InProcessConn() (net.Conn, error) { return p.s.current().InProcessConn() }
