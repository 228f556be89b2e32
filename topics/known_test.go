package topics_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/topics"
)

// Until the registry has been read nothing is refused: publishing must not wait for the broker. After that, what is not there is unknown.
func TestKnownFollowsTheRegistry(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	app := topics.NewApp(c.connect(), nil, topics.AppConfig{Declare: topics.DeclareOff})
	if !app.Known("bank.trans-in") {
		t.Error("refused before the registry was asked")
	}
	c.run(app.Run)
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := app.Ready(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without a registry: ready, %v", err)
	}
	if !app.Known("bank.trans-in") {
		t.Error("refused though there is no registry to say so")
	}

	c.own()
	c.ready(app)
	if app.Known("bank.trans-in") {
		t.Error("known, but nobody made it")
	}
	if _, err := c.owner.CreateTopic(t.Context(), "bank.trans-in", transIn.Settings()); err != nil {
		t.Fatal(err)
	}
	c.until("the topic is known", func() bool { return app.Known("bank.trans-in") })
	if _, err := c.owner.DeleteTopic(t.Context(), "bank.trans-in", false); err != nil {
		t.Fatal(err)
	}
	c.until("the topic is gone", func() bool { return !app.Known("bank.trans-in") })
}
