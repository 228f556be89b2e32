package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/twostep-mq/twostep/topics"
)

// StateRemoved is the state of a subscription that nobody waits for any more.
const StateRemoved = "removed"

func (s *Server) listDead(r *http.Request) (int, any, error) {
	q, err := query(r, "topic", "state", "limit")
	if err != nil {
		return 0, nil, err
	}
	limit, err := limitOf(q)
	if err != nil {
		return 0, nil, err
	}
	state := topics.ParkedState(cmp.Or(q["state"], string(topics.ParkedDead)))
	switch state {
	case topics.ParkedDead, topics.ParkedWaiting, topics.ParkedHeld:
	case "all":
		state = ""
	default:
		return 0, nil, invalid("use dead, waiting, held or all", "state is %q", q["state"])
	}
	all, more, unreachable, err := s.parkedEverywhere(r.Context(), q["topic"], state, limit, func(topics.ParkedInfo) bool { return true })
	if err != nil {
		return 0, nil, err
	}
	slices.SortFunc(all, func(a, b DeadLetter) int {
		return cmp.Or(cmp.Compare(a.ParkedAtMS, b.ParkedAtMS), cmp.Compare(a.Subscription, b.Subscription), cmp.Compare(a.ID, b.ID))
	})
	return http.StatusOK, DeadList{
		Dead:        nonNil(all[:min(limit, len(all))]),
		Truncated:   more || len(all) > limit,
		Unreachable: nonNil(unreachable),
	}, nil
}

// showDead also puts the payload together, which comes in pieces.
func (s *Server) showDead(r *http.Request) (int, any, error) {
	if _, err := query(r); err != nil {
		return 0, nil, err
	}
	sub, id, err := s.parkedName(r)
	if err != nil {
		return 0, nil, err
	}
	var payload []byte
	for {
		info, err := s.changed(r.Context(), sub, topics.ParkedRequest{Op: topics.ParkedShow, ID: id, Offset: len(payload)})
		if err != nil {
			return 0, nil, err
		}
		payload = append(payload, info.Payload...)
		if len(payload) < info.Size && len(info.Payload) > 0 {
			continue
		}
		info.Payload = payload
		s.cfg.Logger.InfoContext(r.Context(), "payload of a parked message shown", "subscription", sub.UID, "id", id, "bytes", len(payload))
		return http.StatusOK, deadLetter(sub, info), nil
	}
}

func (s *Server) replayDead(r *http.Request) (int, any, error) {
	return s.changeDead(r, topics.ParkedReplay)
}

func (s *Server) dropDead(r *http.Request) (int, any, error) {
	return s.changeDead(r, topics.ParkedDrop)
}

func (s *Server) changeDead(r *http.Request, op topics.ParkedOp) (int, any, error) {
	if _, err := query(r); err != nil {
		return 0, nil, err
	}
	sub, id, err := s.parkedName(r)
	if err != nil {
		return 0, nil, err
	}
	if _, err := s.changed(r.Context(), sub, topics.ParkedRequest{Op: op, ID: id}); err != nil {
		return 0, nil, err
	}
	return http.StatusNoContent, nil, nil
}

// changed asks for something that concerns one parked message and returns it.
func (s *Server) changed(ctx context.Context, sub Subscription, q topics.ParkedRequest) (topics.ParkedInfo, error) {
	reply, err := s.askParked(ctx, sub.UID, q)
	var refused *Problem
	switch {
	case errors.As(err, &refused):
		return topics.ParkedInfo{}, refused
	case err != nil:
		return topics.ParkedInfo{}, &Problem{
			Code:    CodeUnavailable,
			Message: fmt.Sprintf("subscription %s/%s did not answer (%v)", sub.Topic, sub.Name, err),
			Hint:    "start the service that runs it",
		}
	}
	if len(reply.Parked) != 1 {
		return topics.ParkedInfo{}, notFound("twostep dead list shows what there is", "subscription %s/%s has no parked message %s", sub.Topic, sub.Name, q.ID)
	}
	return reply.Parked[0], nil
}

// parkedName finds the subscription and the message id that a path names.
func (s *Server) parkedName(r *http.Request) (Subscription, string, error) {
	uid, topic, name, id := r.PathValue("uid"), r.PathValue("topic"), r.PathValue("name"), r.PathValue("id")
	subs, err := s.subscriptions(r.Context(), topic)
	if err != nil {
		return Subscription{}, "", err
	}
	for _, sub := range subs {
		if uid != "" && sub.UID == uid || uid == "" && sub.Name == name {
			return sub, id, nil
		}
	}
	return Subscription{}, "", notFound("twostep topics list and show name what there is", "there is no subscription %s", cmp.Or(uid, topic+"/"+name))
}
