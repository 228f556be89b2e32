package nats_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/broker/brokertest"
	natsbroker "github.com/twostep-mq/twostep/broker/nats"
)

// TestSuiteOldServer runs the suite on the nats-server in TWOSTEP_TEST_NATS_SERVER or in the path, which may be an old one.
func TestSuiteOldServer(t *testing.T) {
	t.Parallel()
	binary := os.Getenv("TWOSTEP_TEST_NATS_SERVER")
	if binary == "" {
		var err error
		if binary, err = exec.LookPath("nats-server"); err != nil {
			t.Skip("no nats-server here: install Debian's, or name one in TWOSTEP_TEST_NATS_SERVER")
		}
	}
	brokertest.Run(t, func(t *testing.T) brokertest.Harness {
		o := &oldServer{binary: binary, dir: t.TempDir()}
		o.port = freePorts(t, 1)[0]
		o.start(t)
		t.Cleanup(func() { o.kill() })
		o.old = strings.Contains(o.said(t), "this NATS server is old")
		return brokertest.Harness{
			Connect: func(t *testing.T) broker.Broker { return o.connect(t) },
			Restart: func(t *testing.T) { o.kill(); o.start(t) },
			Wipe: func(t *testing.T) {
				o.kill()
				must(t, os.RemoveAll(o.dir))
				o.start(t)
			},
			Silence: 2 * time.Second, InboxMessages: 100, TooLarge: 2 << 20, Shared: o.old,
		}
	})
}

// oldServer is a process.
type oldServer struct {
	binary, dir string
	port        int
	old         bool // it says so of itself
	cmd         *exec.Cmd
}

func (o *oldServer) start(t *testing.T) {
	t.Helper()
	o.cmd = exec.CommandContext(context.Background(), o.binary, "-a", "127.0.0.1", "-p", fmt.Sprint(o.port), "-js", "-sd", o.dir)
	must(t, o.cmd.Start())
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", o.port))
		if err == nil {
			_ = c.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the old server does not listen")
		}
	}
}

// said is what a connection logs of the server.
func (o *oldServer) said(t *testing.T) string {
	t.Helper()
	var log bytes.Buffer
	b, err := natsbroker.Connect(t.Context(), natsbroker.Config{URL: fmt.Sprint("nats://127.0.0.1:", o.port), Logger: slog.New(slog.NewTextHandler(&log, nil))})
	must(t, err)
	must(t, b.Close(t.Context()))
	version, err := exec.CommandContext(t.Context(), o.binary, "--version").Output()
	must(t, err)
	if strings.Contains(string(version), "v2.9.") != strings.Contains(log.String(), "version=2.9.") {
		t.Errorf("%s: it logged %q", version, log.String())
	}
	return log.String()
}

func (o *oldServer) kill() {
	_ = o.cmd.Process.Kill()
	_ = o.cmd.Wait()
}

func (o *oldServer) connect(t *testing.T) *natsbroker.Broker {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	b, err := natsbroker.Connect(ctx, natsbroker.Config{
		URL: fmt.Sprint("nats://127.0.0.1:", o.port), AckWait: 2 * time.Second, PinTTL: 500 * time.Millisecond, InboxMessages: 100,
		ReconnectWait: 20 * time.Millisecond, TopicMaxBytes: 64 << 20, InboxMaxBytes: 64 << 20,
	})
	must(t, err)
	t.Cleanup(func() { _ = b.Close(context.Background()) })
	return b
}
