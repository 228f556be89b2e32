package watermill_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"

	"github.com/twostep-mq/twostep/adapters/watermill"
	"github.com/twostep-mq/twostep/broker"
)

// crowd are processes that talk over a pub/sub that loses, doubles and reorders what it carries, for each of them differently.
type crowd struct {
	t     *testing.T
	under *gochannel.GoChannel
	loses float64
	wait  time.Duration // BrokerConfig.StateWait
}

func newCrowd(t *testing.T, loses float64, wait time.Duration) *crowd {
	t.Helper()
	under := gochannel.NewGoChannel(gochannel.Config{}, nil)
	t.Cleanup(func() { _ = under.Close() })
	return &crowd{t: t, under: under, loses: loses, wait: wait}
}

func (c *crowd) join() *watermill.Broker {
	c.t.Helper()
	b := watermill.FromWatermill(c.under, func(string) (message.Subscriber, error) {
		return bad{leftOpen{c.under}, c.loses}, nil
	}, watermill.BrokerConfig{StateWait: c.wait})
	c.t.Cleanup(func() { c.leave(b) })
	return b
}

func (c *crowd) leave(b *watermill.Broker) {
	c.t.Helper()
	if err := b.Close(context.Background()); err != nil {
		c.t.Error(err)
	}
}

// bad is a subscriber that loses some messages and hands out others twice.
type bad struct {
	message.Subscriber
	loses float64
}

func (s bad) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	from, err := s.Subscriber.Subscribe(ctx, topic)
	out := make(chan *message.Message)
	go func() {
		defer close(out)
		for m := range from {
			m.Ack()
			times := 1
			if lot := rand.Float64(); lot < s.loses {
				times = 0
			} else if lot > 1-s.loses {
				times = 2
			}
			for range times {
				select {
				case out <- m.Copy():
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return out, err
}

// mirror is what one watcher of the state has seen.
type mirror struct {
	t *testing.T

	mu      sync.Mutex
	values  map[string]string
	current bool
}

func watch(t *testing.T, b broker.Broker) *mirror {
	t.Helper()
	m := &mirror{t: t, values: map[string]string{}}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.WatchState(ctx, "", m.see) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil && !errors.Is(err, broker.ErrClosed) {
			t.Error(err)
		}
	})
	return m
}

// see checks what the registry's announcements need: whoever has seen a head has seen everything its process put before it.
func (m *mirror) see(ev broker.StateEvent) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case ev.Current:
		m.current = true
	case ev.Value == nil:
		delete(m.values, ev.Key)
	default:
		m.values[ev.Key] = string(ev.Value)
	}
	if who, is := strings.CutPrefix(ev.Key, "head."); is {
		version, _ := strconv.Atoi(string(ev.Value))
		for n := 1; n <= version; n++ {
			if key := fmt.Sprintf("topic.%s.%d", who, n); m.values[key] == "" {
				m.t.Errorf("head %d of %s came before %s", version, who, key)
			}
		}
	}
	return nil
}

func (m *mirror) seen() map[string]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.values)
}

func (m *mirror) isCurrent() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.current
}

func put(t *testing.T, b broker.Broker, key, value string) {
	t.Helper()
	if err := b.PutState(t.Context(), key, []byte(value)); err != nil {
		t.Error(err)
	}
}

// Whatever is lost on the way, all processes end with the same state, newcomers too, and nobody sees a head before what it is about.
func TestStateConverges(t *testing.T) {
	t.Parallel()
	c := newCrowd(t, 0.2, 400*time.Millisecond)
	var mirrors []*mirror
	var wg sync.WaitGroup
	want := map[string]string{}
	const versions = 100
	for who := range 4 {
		b := c.join()
		mirrors = append(mirrors, watch(t, b))
		for version := 1; version <= versions; version++ {
			want[fmt.Sprintf("topic.%d.%d", who, version)] = "v"
		}
		want[fmt.Sprintf("head.%d", who)] = strconv.Itoa(versions)
		wg.Go(func() {
			for version := 1; version <= versions; version++ {
				put(t, b, fmt.Sprintf("topic.%d.%d", who, version), "v")
				put(t, b, fmt.Sprintf("head.%d", who), strconv.Itoa(version))
			}
			put(t, b, "gone", "x")
			if err := b.DeleteState(t.Context(), "gone"); err != nil {
				t.Error(err)
			}
		})
	}
	for range 3 { // newcomers in the middle of it
		mirrors = append(mirrors, watch(t, c.join()))
	}
	wg.Wait()
	for i, m := range mirrors {
		eventually(t, func() error {
			got := m.seen()
			delete(got, "gone") // of four writers the last one's word counts
			if !maps.Equal(got, want) {
				return fmt.Errorf("process %d has %d entries, want %d, or other ones", i, len(got), len(want))
			}
			return nil
		})
	}
	last := mirrors[0].seen()["gone"]
	for i, m := range mirrors {
		eventually(t, func() error {
			if got := m.seen()["gone"]; got != last {
				return fmt.Errorf("process %d has %q, the first %q", i, got, last)
			}
			return nil
		})
	}
}

// A newcomer is current only when it has what there is, and has it though those who put it are gone.
func TestStateOutlivesWhoPutIt(t *testing.T) {
	t.Parallel()
	c := newCrowd(t, 0, 3*time.Second)
	first := c.join()
	for n := range 300 {
		put(t, first, fmt.Sprintf("k.%d", n), "v")
	}
	put(t, first, "large", strings.Repeat("x", 900_000))
	second := c.join()
	m := watch(t, second)
	eventually(t, func() error {
		if !m.isCurrent() {
			return errors.New("not current")
		}
		return nil
	})
	if n := len(m.seen()); n != 301 {
		t.Fatalf("current with %d of 301 entries", n)
	}
	c.leave(first)
	put(t, second, "k.0", "w")
	third := watch(t, c.join())
	eventually(t, func() error {
		if got := third.seen(); len(got) != 301 || got["k.0"] != "w" {
			return fmt.Errorf("%d entries", len(got))
		}
		return nil
	})
}

// The last process takes the state with it.
func TestStateEndsWithTheLastProcess(t *testing.T) {
	t.Parallel()
	c := newCrowd(t, 0, 300*time.Millisecond)
	first := c.join()
	put(t, first, "k", "v")
	c.leave(first)
	m := watch(t, c.join())
	eventually(t, func() error {
		if !m.isCurrent() {
			return errors.New("not current")
		}
		return nil
	})
	if got := m.seen(); len(got) != 0 {
		t.Errorf("state of nobody: %v", got)
	}
}
