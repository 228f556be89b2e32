package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

const (
	// askAtOnce bounds the questions of one request that are open at a time.
	askAtOnce = 16
	// defaultLimit and maxLimit bound listings.
	defaultLimit, maxLimit = 100, 500
	// rowPages bounds how far one outbox is searched for a gid or topic, in answers of its relay (about 10,000 rows each).
	rowPages = 20
	// parkedPages bounds how far one subscription's parked messages are searched for a gid, in pages of 1,000.
	parkedPages = 20
)

// forEach runs fn for 0 to n-1, askAtOnce at a time, and waits for all.
func forEach(n int, fn func(i int)) {
	slots := make(chan struct{}, askAtOnce)
	var wg sync.WaitGroup
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			fn(i)
		})
	}
	wg.Wait()
}

// askJSON asks whoever answers under name.
func askJSON[Reply any](ctx context.Context, s *Server, name string, question any) (Reply, error) {
	var reply Reply
	raw, err := json.Marshal(question)
	if err != nil {
		return reply, fmt.Errorf("api: write question to %s: %w", name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.AskTimeout)
	defer cancel()
	answer, err := s.ask.Request(ctx, name, raw)
	switch {
	case errors.Is(err, context.DeadlineExceeded): // before ErrNoAnswer, which such an error may be, too
		return reply, fmt.Errorf("no answer within %s", s.cfg.AskTimeout)
	case errors.Is(err, broker.ErrNoAnswer):
		return reply, errors.New("no process that runs it is connected")
	case err != nil:
		return reply, err
	}
	if err := json.Unmarshal(answer, &reply); err != nil {
		return reply, fmt.Errorf("an answer that is no JSON of ours: %w", err)
	}
	return reply, nil
}

// askRows asks the relay of one outbox for up to q.Limit unreleased rows, page by page: a relay answers with what it finds within
// its patience. more says that there may be others.
func (s *Server) askRows(ctx context.Context, uuid string, q outbox.RowsRequest) (rows []outbox.RowInfo, more bool, err error) {
	limit := q.Limit
	for range rowPages {
		q.Limit = limit - len(rows)
		reply, err := askJSON[outbox.RowsReply](ctx, s, outbox.Inbox(uuid), q)
		if err == nil && reply.Error != "" {
			err = errors.New(reply.Error)
		}
		if err != nil {
			return rows, false, err
		}
		rows = append(rows, reply.Rows...)
		if reply.Next <= q.After || len(rows) >= limit {
			return rows, reply.Next > 0, nil
		}
		q.After = reply.Next
	}
	return rows, true, nil
}

// askParked asks the dispatcher of one subscription. What it refuses is a *Problem; any other error means that it did not answer.
func (s *Server) askParked(ctx context.Context, uid string, q topics.ParkedRequest) (topics.ParkedReply, error) {
	reply, err := askJSON[topics.ParkedReply](ctx, s, outbox.SubscriptionInbox(uid), q)
	if err != nil {
		return reply, err
	}
	if reply.Error != "" {
		code := CodeInternal
		switch reply.Code {
		case topics.ParkedCodeInvalid:
			code = CodeInvalid
		case topics.ParkedCodeNotFound:
			code = CodeNotFound
		case topics.ParkedCodeConflict:
			code = CodeConflict
		}
		return reply, &Problem{Code: code, Message: reply.Error}
	}
	return reply, nil
}

// parkedOf reads up to limit parked messages of one subscription that keep wants.
func (s *Server) parkedOf(ctx context.Context, sub Subscription, state topics.ParkedState, limit int, keep func(topics.ParkedInfo) bool) (found []DeadLetter, more bool, err error) {
	var after int64
	for range parkedPages {
		reply, err := s.askParked(ctx, sub.UID, topics.ParkedRequest{Op: topics.ParkedList, State: state, After: after, Limit: 1000})
		if err != nil {
			return found, false, err
		}
		for _, info := range reply.Parked {
			after = info.Seq
			if !keep(info) {
				continue
			}
			if len(found) == limit {
				return found, true, nil
			}
			found = append(found, deadLetter(sub, info))
		}
		if !reply.More || len(reply.Parked) == 0 {
			return found, false, nil
		}
	}
	return found, true, nil
}

func deadLetter(sub Subscription, p topics.ParkedInfo) DeadLetter {
	return DeadLetter{
		Subscription: sub.UID, Topic: sub.Topic, Name: sub.Name, ID: p.ID, GID: p.GID, Key: p.Key, State: string(p.State),
		Attempts: p.Attempts, Reason: p.Reason, ParkedAtMS: p.ParkedAt, NextAtMS: p.NextAt, Size: p.Size,
		ContentType: p.ContentType, Headers: p.Headers, Payload: p.Payload,
	}
}

// parkedEverywhere asks every subscription that is not removed (of one topic, or all) at once.
func (s *Server) parkedEverywhere(ctx context.Context, topic string, state topics.ParkedState, limit int, keep func(topics.ParkedInfo) bool) (all []DeadLetter, more bool, unreachable []Unreachable, err error) {
	subs, err := s.subscriptions(ctx, topic)
	if err != nil {
		return nil, false, nil, err
	}
	var mu sync.Mutex
	forEach(len(subs), func(i int) {
		found, further, err := s.parkedOf(ctx, subs[i], state, limit, keep)
		mu.Lock()
		defer mu.Unlock()
		all, more = append(all, found...), more || further
		if err != nil {
			unreachable = append(unreachable, Unreachable{Kind: "subscription", ID: subs[i].UID, Name: subs[i].Topic + "/" + subs[i].Name, Reason: err.Error()})
		}
	})
	sortUnreachable(unreachable)
	return all, more, unreachable, nil
}

// subscriptions lists what is not removed, of one topic (CodeNotFound where it is not there), or of all.
func (s *Server) subscriptions(ctx context.Context, topic string) ([]Subscription, error) {
	var all []Topic
	if topic == "" {
		found, err := s.owner.Topics(ctx)
		if err != nil {
			return nil, err
		}
		all = found
	} else {
		t, err := s.owner.Topic(ctx, topic)
		if err != nil {
			return nil, err
		}
		all = []Topic{t}
	}
	var subs []Subscription
	for _, t := range all {
		for _, sub := range t.Subscriptions {
			if sub.State != StateRemoved {
				subs = append(subs, sub)
			}
		}
	}
	return subs, nil
}

func sortUnreachable(list []Unreachable) {
	slices.SortFunc(list, func(a, b Unreachable) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
}

// limitOf reads the query parameter limit.
func limitOf(q map[string]string) (int, error) {
	if q["limit"] == "" {
		return defaultLimit, nil
	}
	n, err := strconv.Atoi(q["limit"])
	if err != nil || n < 1 || n > maxLimit {
		return 0, invalid(fmt.Sprintf("use a number from 1 to %d", maxLimit), "limit is %q", q["limit"])
	}
	return n, nil
}
