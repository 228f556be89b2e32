package pubsubtest

import (
	"context"
	"fmt"
	"io"
	"log" //nolint:depguard // what the suite logs with
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// restartCommand is a program that has the broker restarted: this test binary, which asks us to.
func restartCommand(t *testing.T, fx fixture) []string {
	t.Helper()
	if fx.restart == nil {
		return nil
	}
	control := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if err := fx.restart(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	}))
	t.Cleanup(control.Close)
	return []string{os.Args[0], "restart", control.URL}
}

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "restart" {
		os.Exit(askForRestart(os.Args[2]))
	}
	log.SetOutput(io.Discard) // the suite reports every read
	os.Exit(m.Run())
}

func askForRestart(url string) int {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, http.NoBody)
	if err == nil {
		var resp *http.Response
		if resp, err = http.DefaultClient.Do(req); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return 0
			}
			err = fmt.Errorf("status %s", resp.Status)
		}
	}
	fmt.Fprintln(os.Stderr, "restart:", err)
	return 1
}

// unhurried hands out a message only some time after Publish of it has returned. The suite's test of restarts counts a message as sent
// a moment after that, in a goroutine of its own, and compares what came with what was sent as soon as the last one has come.
func unhurried(pub message.Publisher, sub message.Subscriber) (message.Publisher, message.Subscriber) {
	p := &punctual{Publisher: pub, sent: map[string]chan struct{}{}}
	return p, patient{sub, p}
}

// punctual knows which messages were sent.
type punctual struct {
	message.Publisher

	mu   sync.Mutex
	sent map[string]chan struct{} // closed when it counts as sent
}

func (p *punctual) of(id string) chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sent[id] == nil {
		p.sent[id] = make(chan struct{})
	}
	return p.sent[id]
}

func (p *punctual) Publish(topic string, messages ...*message.Message) error {
	err := p.Publisher.Publish(topic, messages...)
	if err == nil {
		for _, m := range messages {
			time.AfterFunc(50*time.Millisecond, func() { close(p.of(m.UUID)) })
		}
	}
	return err
}

type patient struct {
	message.Subscriber
	pub *punctual
}

func (p patient) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	from, err := p.Subscriber.Subscribe(ctx, topic)
	if err != nil {
		return nil, err
	}
	out := make(chan *message.Message)
	go func() {
		defer close(out)
		for m := range from {
			select {
			case <-p.pub.of(m.UUID):
			case <-m.Context().Done():
			}
			select {
			case out <- m:
			case <-m.Context().Done():
			}
		}
	}()
	return out, nil
}
