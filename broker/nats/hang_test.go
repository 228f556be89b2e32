package nats_test

import (
	"bufio"
	"context"
	"net"
	"strings"
	"testing"
	"time"

	natsbroker "github.com/twostep-mq/twostep/broker/nats"
)

// hangingServer takes connections, says what a NATS server says first, and then reads no more.
func hangingServer(t *testing.T) (url string) {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = c.Close() })
			if tcp, ok := c.(*net.TCPConn); ok {
				_ = tcp.SetReadBuffer(4096)
			}
			go func() {
				if _, err := c.Write([]byte(`INFO {"server_id":"x","version":"2.12.0","proto":1,"headers":true,"max_payload":1048576}` + "\r\n")); err != nil {
					return
				}
				for r := bufio.NewReaderSize(c, 16); ; {
					line, err := r.ReadString('\n')
					if err != nil {
						return
					}
					if strings.HasPrefix(line, "PING") {
						_, _ = c.Write([]byte("PONG\r\n"))
						return
					}
				}
			}()
		}
	}()
	return "nats://" + l.Addr().String()
}

// A server that hangs holds who writes for the acknowledgement's time at most, not for nats.go's minute.
func TestHangingServerHoldsNoWriter(t *testing.T) {
	t.Parallel()
	b, err := natsbroker.Connect(t.Context(), natsbroker.Config{URL: hangingServer(t), AckTimeout: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		_ = b.Close(ctx) // it cannot flush
	})
	name := strings.Repeat("bell.", 39) + "bell"
	for began, sent := time.Now(), 0; sent < 10<<20; sent += len(name) {
		before := time.Now()
		_ = b.Ring(t.Context(), name)
		if took := time.Since(before); took > 3*time.Second {
			t.Fatalf("one ring took %v", took)
		}
		if time.Since(began) > 20*time.Second {
			t.Fatalf("only %d bytes in 20 s", sent)
		}
	}
}
