package nats_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/twostep-mq/twostep/broker"
	natsbroker "github.com/twostep-mq/twostep/broker/nats"
)

// cluster is three servers in this process; streams have three replicas.
type cluster struct {
	nodes [3]*server.Server
	opts  [3]*server.Options
}

func startCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{}
	ports := freePorts(t, 2*len(c.nodes))
	var routes []*url.URL
	for i := range c.nodes {
		routes = append(routes, &url.URL{Scheme: "nats", Host: fmt.Sprint("127.0.0.1:", ports[2*i])})
	}
	for i := range c.nodes {
		c.opts[i] = &server.Options{
			Host: "127.0.0.1", Port: ports[2*i+1], NoLog: true, NoSigs: true, ServerName: fmt.Sprint("n", i),
			JetStream: true, StoreDir: t.TempDir(), JetStreamMaxStore: 8 << 30, JetStreamMaxMemory: 64 << 20,
			Cluster: server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: ports[2*i]}, Routes: routes,
		}
		c.start(t, i)
	}
	t.Cleanup(func() {
		for i := range c.nodes {
			c.stop(i)
		}
	})
	c.wait(t, "a leader of the cluster and all nodes current", func() bool { return c.leader("") != nil && c.current() })
	return c
}

// freePorts are free a moment ago: a cluster's nodes have to know each other's before they start.
func freePorts(t *testing.T, n int) (ports []int) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		defer func() { _ = l.Close() }()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

func (c *cluster) start(t *testing.T, i int) {
	t.Helper()
	opts := *c.opts[i]
	s, err := server.NewServer(&opts)
	must(t, err)
	s.Start()
	c.nodes[i] = s
	t.Logf("node %d at %s", i, s.ClientURL())
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatalf("node %d is not ready", i)
	}
}

func (c *cluster) stop(i int) {
	c.nodes[i].Shutdown()
	c.nodes[i].WaitForShutdown()
}

func (c *cluster) wait(t *testing.T, what string, ready func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ready(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %s", what)
		}
	}
}

func (c *cluster) current() bool {
	for _, n := range c.nodes {
		if !n.JetStreamIsCurrent() {
			return false
		}
	}
	return true
}

// leader of a stream, or of the cluster itself where stream is empty.
func (c *cluster) leader(stream string) *server.Server {
	for _, n := range c.nodes {
		if n.Running() && (stream == "" && n.JetStreamIsLeader() || stream != "" && n.JetStreamIsStreamLeader("$G", stream)) {
			return n
		}
	}
	return nil
}

func (c *cluster) config() natsbroker.Config {
	urls := make([]string, len(c.nodes))
	for i, n := range c.nodes {
		urls[i] = n.ClientURL()
	}
	return natsbroker.Config{URL: strings.Join(urls, ","), Replicas: 3, ReconnectWait: 20 * time.Millisecond, AckTimeout: time.Second,
		TopicMaxBytes: 64 << 20, InboxMaxBytes: 64 << 20, StateMaxBytes: 16 << 20}
}

func (c *cluster) connect(t *testing.T) *natsbroker.Broker {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	b, err := natsbroker.Connect(ctx, c.config())
	must(t, err)
	t.Cleanup(func() { _ = b.Close(context.Background()) })
	return b
}

// The stream's leader dies, twice, while messages pass: all that was acknowledged is delivered, in order, and publishing goes on.
func TestClusterLosesItsLeader(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	b, reader := c.connect(t), c.connect(t)
	ctx := t.Context()
	sub := broker.SubscriptionSpec{UID: "reader", Topic: "pay", Keyed: true}
	must(t, errors.Join(b.EnsureTopic(ctx, broker.TopicSpec{Name: "pay"}), b.EnsureSubscription(ctx, sub)))

	var mu sync.Mutex
	seen := map[int]bool{}
	last := -1
	consuming, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		ended <- reader.Consume(consuming, broker.Source{Subscription: sub}, func(_ context.Context, ds []broker.Delivery) error {
			mu.Lock()
			defer mu.Unlock()
			for _, d := range ds {
				var n int
				if _, err := fmt.Sscan(string(d.Payload), &n); err != nil {
					return err
				}
				if !seen[n] && n < last {
					t.Errorf("message %d after %d for the first time", n, last)
				}
				seen[n], last = true, max(last, n)
			}
			return nil
		})
	}()

	const most = 300
	var acked atomic.Int64
	killed := map[int]bool{}
	var down *server.Server
	for n := range most {
		if n == most/3 || n == 2*most/3 {
			if down != nil { // never two at once: that is no quorum
				for i, node := range c.nodes {
					if node == down {
						c.start(t, i)
					}
				}
				c.wait(t, "node that came back", func() bool { return c.current() })
			}
			c.wait(t, "leader of the stream", func() bool { return c.leader("twostep-t-pay") != nil })
			down = c.leader("twostep-t-pay")
			down.Shutdown()
			down.WaitForShutdown()
			killed[n] = true
		}
		// One message at a time, again until it is acknowledged, as the relay does with one key.
		m := &broker.Message{ID: fmt.Sprint("m", n), Topic: "pay", Key: "k", Payload: []byte(fmt.Sprint(n))}
		for acknowledged := false; !acknowledged && ctx.Err() == nil; {
			done := make(chan error, 1)
			b.Publish(ctx, []*broker.Message{m}, func(_ int, _ broker.Position, err error) { done <- err })
			acknowledged = <-done == nil
		}
		acked.Add(1)
	}
	c.wait(t, "end of the messages", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(seen) == most
	})
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if len(killed) != 2 || acked.Load() != most {
		t.Errorf("%d leaders killed, %d acknowledged", len(killed), acked.Load())
	}
}

// Three replicas on one server are refused with the reason.
func TestTooFewServers(t *testing.T) {
	t.Parallel()
	s := external(t, nil)
	b, err := natsbroker.Connect(t.Context(), natsbroker.Config{URL: s.ClientURL(), Replicas: 3})
	must(t, err)
	defer func() { _ = b.Close(context.Background()) }()
	if err := b.EnsureTopic(t.Context(), broker.TopicSpec{Name: "pay"}); err == nil || !strings.Contains(err.Error(), "broker.replicas") {
		t.Errorf("made: %v", err)
	}
}
