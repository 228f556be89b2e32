package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// ErrUnreachable: no twostep server answers at the address.
var ErrUnreachable = errors.New("no twostep server answers")

// Client calls a server's API. Its methods return *Problem where the server refused, and errors that wrap ErrUnreachable
// where there is none.
type Client struct {
	base string
	http *http.Client
}

// maxAnswer bounds what is read of one answer, in bytes.
const maxAnswer = 64 << 20

// NewClient makes a client for the server at base, as http://127.0.0.1:36789.
func NewClient(base string) (*Client, error) {
	u, err := url.Parse(base)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, fmt.Errorf("server address %q: use a URL, as http://127.0.0.1:36789", base)
	}
	return &Client{base: strings.TrimRight(base, "/"), http: &http.Client{
		Timeout: 30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse // the API never redirects
		},
	}}, nil
}

// Topics lists all topics.
func (c *Client) Topics(ctx context.Context) (TopicList, error) {
	return call[TopicList](ctx, c, http.MethodGet, "/topics", nil)
}

// Topic shows one topic.
func (c *Client) Topic(ctx context.Context, topic string) (Topic, error) {
	return call[Topic](ctx, c, http.MethodGet, path("topics", topic), nil)
}

// CreateTopic makes a topic; one that exists with the same settings is no error.
func (c *Client) CreateTopic(ctx context.Context, t CreateTopic) (Topic, error) {
	return call[Topic](ctx, c, http.MethodPost, "/topics", t)
}

// DeleteTopic deletes a topic, with force also one with messages in flight.
func (c *Client) DeleteTopic(ctx context.Context, topic string, force bool) (TopicDeleted, error) {
	return call[TopicDeleted](ctx, c, http.MethodDelete, path("topics", topic)+"?force="+strconv.FormatBool(force), nil)
}

// Subscribe makes a subscription; one that exists is no error.
func (c *Client) Subscribe(ctx context.Context, topic, name string) (Subscription, error) {
	return call[Subscription](ctx, c, http.MethodPost, path("topics", topic, "subscriptions"), CreateSubscription{Name: name})
}

// Unsubscribe removes a subscription for good.
func (c *Client) Unsubscribe(ctx context.Context, topic, name string) error {
	_, err := call[struct{}](ctx, c, http.MethodDelete, path("topics", topic, "subscriptions", name), nil)
	return err
}

// Outboxes lists outboxes, or the stuck ones among them.
func (c *Client) Outboxes(ctx context.Context, onlyStuck bool) (OutboxList, error) {
	return call[OutboxList](ctx, c, http.MethodGet, "/outboxes?stuck="+strconv.FormatBool(onlyStuck), nil)
}

// ForgetOutbox forgets an outbox that is gone for good.
func (c *Client) ForgetOutbox(ctx context.Context, uuid string) error {
	_, err := call[struct{}](ctx, c, http.MethodDelete, path("outboxes", uuid), nil)
	return err
}

// Transactions lists what is not done, of one topic or (empty) all.
func (c *Client) Transactions(ctx context.Context, topic string, limit int) (TransactionList, error) {
	return call[TransactionList](ctx, c, http.MethodGet, "/transactions?"+filter("topic", topic, "limit", strconv.Itoa(limit)), nil)
}

// Transaction shows the messages of one global transaction that are not done.
func (c *Client) Transaction(ctx context.Context, gid string) (TransactionList, error) {
	return call[TransactionList](ctx, c, http.MethodGet, path("transactions", gid), nil)
}

// Dead lists parked messages in a state (dead, waiting, held, all), of one topic or (empty) all.
func (c *Client) Dead(ctx context.Context, topic, state string, limit int) (DeadList, error) {
	return call[DeadList](ctx, c, http.MethodGet, "/dead?"+filter("topic", topic, "state", state, "limit", strconv.Itoa(limit)), nil)
}

// DeadLetter shows one parked message with its payload. subscription is a uid or topic/name.
func (c *Client) DeadLetter(ctx context.Context, subscription, id string) (DeadLetter, error) {
	return call[DeadLetter](ctx, c, http.MethodGet, deadPath(subscription, id), nil)
}

// Replay runs a dead letter again.
func (c *Client) Replay(ctx context.Context, subscription, id string) error {
	_, err := call[struct{}](ctx, c, http.MethodPost, deadPath(subscription, id)+"/replay", nil)
	return err
}

// Drop drops a dead letter for good.
func (c *Client) Drop(ctx context.Context, subscription, id string) error {
	_, err := call[struct{}](ctx, c, http.MethodPost, deadPath(subscription, id)+"/drop", nil)
	return err
}

func deadPath(subscription, id string) string {
	if topic, name, ok := strings.Cut(subscription, "/"); ok {
		return path("dead", topic, name, id)
	}
	return path("dead", subscription, id)
}

// path joins escaped segments.
func path(segments ...string) string {
	var b strings.Builder
	for _, s := range segments {
		b.WriteByte('/')
		b.WriteString(url.PathEscape(s))
	}
	return b.String()
}

// filter encodes the pairs whose value is not empty.
func filter(pairs ...string) string {
	values := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" && pairs[i+1] != "0" {
			values.Set(pairs[i], pairs[i+1])
		}
	}
	return values.Encode()
}

// call sends one request and reads its answer.
func call[T any](ctx context.Context, c *Client, method, path string, body any) (T, error) {
	var answer T
	var reader io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return answer, fmt.Errorf("api: write request: %w", err)
		}
		reader = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+Prefix+path, reader)
	if err != nil {
		return answer, fmt.Errorf("api: make request: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var cause *url.Error
		if errors.As(err, &cause) {
			err = cause.Err
		}
		return answer, fmt.Errorf("%w at %s (%w): start one with twostep serve, or name another with --server or TWOSTEP_SERVER", ErrUnreachable, c.base, err)
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return answer, fmt.Errorf("%w at %s: the answer broke off: %w", ErrUnreachable, c.base, err)
	}
	if resp.StatusCode >= 300 {
		var p problemBody
		if json.Unmarshal(raw, &p) != nil || p.Error == nil {
			return answer, fmt.Errorf("%w at %s: something else answered with %s; check --server", ErrUnreachable, c.base, resp.Status)
		}
		return answer, p.Error
	}
	if resp.StatusCode == http.StatusNoContent {
		return answer, nil
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return answer, fmt.Errorf("%w at %s: the answer is no twostep JSON; check --server", ErrUnreachable, c.base)
	}
	return answer, nil
}
