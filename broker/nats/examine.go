package nats

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/twostep-mq/twostep/broker"
)

const (
	// leastPayload is a message of the largest size with its headers, twostep's own among them.
	leastPayload = 1_000_000 + 16<<10
	// examineWait bounds waiting for one answer.
	examineWait = 5 * time.Second
)

// Examine looks at everything that twostep rests on at the broker, for `twostep doctor`: the server's version and limits, JetStream, the
// streams that are there, and rights as far as they can be seen without writing. It changes nothing.
func (b *Broker) Examine(ctx context.Context) []broker.Finding {
	e := &examination{b: b}
	e.server()
	e.payload()
	if e.jetStream(ctx) {
		e.streams(ctx)
	}
	e.rights(ctx)
	return e.findings
}

// examination collects findings.
type examination struct {
	b        *Broker
	findings []broker.Finding
}

func (e *examination) add(check string, level broker.Level, value, problem, fix string) {
	e.findings = append(e.findings, broker.Finding{Check: check, Level: level, Value: value, Problem: problem, Fix: fix})
}

func (e *examination) server() {
	version := e.b.nc.ConnectedServerVersion()
	value := fmt.Sprintf("NATS server %s at %s", version, redact(e.b.nc.ConnectedUrl()))
	if !atLeast(version, oldest) {
		e.add("server", broker.LevelWarning, value, "readers of a keyed subscription or an inbox share it instead of standing by for each other, and order is kept by sending again, which is slow",
			"update the server to "+oldest+" or later")
		return
	}
	e.add("server", broker.LevelOK, value, "", "")
}

func (e *examination) payload() {
	limit := e.b.nc.MaxPayload()
	value := fmt.Sprintf("max_payload = %d", limit)
	if limit < leastPayload {
		e.add("message size", broker.LevelError, value, "messages of up to 1,000,000 bytes with their headers do not fit: larger ones stay in the outbox for ever", "max_payload: 1MB (or more) in the server's configuration, then nats-server --signal reload")
		return
	}
	e.add("message size", broker.LevelOK, value, "", "")
}

// jetStream reports whether streams can be looked at.
func (e *examination) jetStream(ctx context.Context) bool {
	asked, cancel := context.WithTimeout(ctx, examineWait)
	defer cancel()
	info, err := e.b.js.AccountInfo(asked)
	switch {
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		e.add("JetStream", broker.LevelError, "off", "the server keeps no messages", "jetstream: enabled in the server's configuration (and for this account), then restart it")
		return false
	case err != nil:
		e.add("JetStream", broker.LevelError, "", oneLine(err.Error()), "see that the server runs, and that this user may ask $JS.API.INFO")
		return false
	}
	used, limit := info.Store, info.Limits.MaxStore
	value := fmt.Sprintf("%d MiB used, %d streams", used>>20, info.Streams)
	if limit > 0 {
		value = fmt.Sprintf("%d of %d MiB used, %d streams", used>>20, limit>>20, info.Streams)
	}
	if limit > 0 && limit < sum(e.b.cfg.InboxMaxBytes*2, e.b.cfg.StateMaxBytes, e.b.cfg.TopicMaxBytes) {
		e.add("JetStream", broker.LevelError, value, "the account may not store what the inboxes, the state and one topic reserve", "raise the account's max_file, or lower broker.topic_max_bytes")
		return true
	}
	e.add("JetStream", broker.LevelOK, value, "", "")
	e.add("flushing", broker.LevelNote, "the server acknowledges before it flushes (sync_interval, 2 minutes by default)",
		"after a power failure messages may be gone; outboxes send them again, but for topics with delivery: broker", "sync_interval: always, where such topics matter")
	return true
}

func sum(all ...int64) (total int64) {
	for _, n := range all {
		total += n
	}
	return total
}

// streams compares those that are there with what twostep would make.
func (e *examination) streams(ctx context.Context) {
	n := e.b.names
	fixed := map[string]jetstream.StreamConfig{}
	for _, cfg := range []jetstream.StreamConfig{e.b.cfg.stateStream(), e.b.cfg.inboxStream("sub.x"), e.b.cfg.inboxStream(outboxInbox + "x")} {
		fixed[cfg.Name] = cfg
	}
	list := e.b.js.ListStreams(ctx)
	topics := 0
	for info := range list.Info() {
		name := info.Config.Name
		want, known := fixed[name]
		switch {
		case known:
			delete(fixed, name)
			e.compare(info, want)
		case strings.HasPrefix(name, n.prefix+"-t-"):
			topics++
			want := e.b.cfg.stream(jetstream.StreamConfig{Name: name, Retention: jetstream.LimitsPolicy, Discard: info.Config.Discard})
			e.compare(info, want)
		}
	}
	if err := list.Err(); err != nil {
		e.add("streams", broker.LevelError, "", oneLine(err.Error()), "let this user ask $JS.API.STREAM.LIST")
		return
	}
	value := fmt.Sprintf("%d topics", topics)
	if len(fixed) > 0 {
		e.add("streams", broker.LevelNote, value, fmt.Sprintf("%d streams of twostep's own are not there yet; the server and the services make them", len(fixed)), "")
		return
	}
	e.add("streams", broker.LevelOK, value, "", "")
}

// compare finds settings of a stream that break what twostep rests on.
func (e *examination) compare(info *jetstream.StreamInfo, want jetstream.StreamConfig) {
	have, check := info.Config, "stream "+info.Config.Name
	var wrong []string
	differs := func(differs bool, text string) {
		if differs {
			wrong = append(wrong, text)
		}
	}
	differs(have.Storage != want.Storage, fmt.Sprintf("storage %v instead of %v", have.Storage, want.Storage))
	differs(have.Retention != want.Retention, fmt.Sprintf("retention %v instead of %v", have.Retention, want.Retention))
	differs(have.Discard != want.Discard, fmt.Sprintf("discard %v instead of %v", have.Discard, want.Discard))
	differs(want.MaxMsgsPerSubject == 1 && have.MaxMsgsPerSubject != 1, fmt.Sprintf("%d messages a subject instead of 1", have.MaxMsgsPerSubject))
	differs(want.DiscardNewPerSubject && !have.DiscardNewPerSubject, "no discard_new_per_subject: one inbox may fill all")
	differs(have.NoAck, "no_ack: nobody knows what was stored")
	differs(have.Sealed, "sealed: nothing can be written")
	if len(wrong) > 0 {
		e.add(check, broker.LevelError, fmt.Sprintf("%d messages", info.State.Msgs), strings.Join(wrong, "; "),
			"stop the services, nats stream rm "+have.Name+", and start them: the stream is made anew, and what was unreleased is sent again")
		return
	}
	if have.MaxBytes > 0 && info.State.Bytes > uint64(have.MaxBytes)/10*9 && have.Discard == jetstream.DiscardNew {
		e.add(check, broker.LevelWarning, fmt.Sprintf("%d of %d bytes", info.State.Bytes, have.MaxBytes), "it is nearly full, and refuses new messages then", "see who does not read: twostep outbox list, twostep topics list; or raise its max_bytes")
	}
}

// rights: a request that nobody answers shows that this user may ask and hear the answer.
func (e *examination) rights(ctx context.Context) {
	subject := e.b.names.requestSubject("doctor")
	ctx, cancel := context.WithTimeout(ctx, examineWait)
	defer cancel()
	_, err := e.b.Request(ctx, "doctor", nil)
	// That nobody answers this name the server says at once. Where it says nothing, the request was refused.
	silent := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout)
	if err == nil || errors.Is(err, broker.ErrNoAnswer) && !silent {
		e.add("rights", broker.LevelOK, "may ask on "+e.b.names.prefix+".q.>", "", "")
		return
	}
	e.add("rights", broker.LevelError, "", "no answer to a request on "+subject+": "+oneLine(err.Error()),
		"allow this user to publish "+e.b.names.prefix+".> and $JS.API.>, and to subscribe to _INBOX.> and "+e.b.names.prefix+".>")
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
