package embedded_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/twostep-mq/twostep/broker"
	natsbroker "github.com/twostep-mq/twostep/broker/nats"
	"github.com/twostep-mq/twostep/broker/nats/embedded"
)

// A broker in this process, for tests and for services that bring their own. Others connect to ClientURL with the credential in
// CredentialFile.
func ExampleStart() {
	ctx := context.Background()
	folder, err := os.MkdirTemp("", "broker-")
	must(err)
	defer func() { _ = os.RemoveAll(folder) }()

	server, err := embedded.Start(ctx, embedded.Config{StoreDir: filepath.Join(folder, "streams"), Listen: "127.0.0.1:0"})
	must(err)
	defer func() { _ = server.Shutdown(ctx) }()
	conn, err := server.Connect(ctx, natsbroker.Config{Name: "example"})
	must(err)
	defer func() { _ = conn.Close(ctx) }()

	must(conn.EnsureTopic(ctx, broker.TopicSpec{Name: "bank.in"}))
	acknowledged := make(chan error, 1)
	conn.Publish(ctx, []*broker.Message{{ID: "019e0000-0000-7000-8000-000000000001", Topic: "bank.in", Payload: []byte(`{}`)}},
		func(_ int, _ broker.Position, err error) { acknowledged <- err })
	fmt.Println(server.Credential(), <-acknowledged)
	// Output: twostep:*** <nil>
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
