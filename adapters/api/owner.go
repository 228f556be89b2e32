package api

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

// RegistryOwner makes a registry's owner an Owner of the API: it translates what is shown and what goes wrong.
func RegistryOwner(o *topics.Owner) Owner { return registryOwner{o} }

type registryOwner struct{ owner *topics.Owner }

// Topics lists all topics once the owner knows them.
func (r registryOwner) Topics(context.Context) ([]Topic, error) {
	if !r.owner.Running() {
		return nil, ownerProblem(topics.ErrNotRunning)
	}
	list := []Topic{}
	for _, info := range r.owner.Topics() {
		list = append(list, topicView(info))
	}
	return list, nil
}

func (r registryOwner) Topic(_ context.Context, name string) (Topic, error) {
	if !r.owner.Running() {
		return Topic{}, ownerProblem(topics.ErrNotRunning)
	}
	info, err := r.owner.Topic(name)
	return topicView(info), ownerProblem(err)
}

func (r registryOwner) CreateTopic(ctx context.Context, name string, s outbox.TopicSettings) (Topic, error) {
	info, err := r.owner.CreateTopic(ctx, name, s)
	return topicView(info), ownerProblem(err)
}

func (r registryOwner) DeleteTopic(ctx context.Context, name string, force bool) (string, error) {
	left, err := r.owner.DeleteTopic(ctx, name, force)
	var parts []string
	for _, l := range left {
		rows := "rows"
		if l.Rows > 0 {
			rows = fmt.Sprintf("at least %d rows", l.Rows)
		}
		parts = append(parts, fmt.Sprintf("%s in outbox %s (%s), reported %s ago", rows, l.Name, l.Outbox, l.Age.Round(time.Second)))
	}
	return strings.Join(parts, "; "), ownerProblem(err)
}

func (r registryOwner) Subscribe(ctx context.Context, topic, name string) (Subscription, error) {
	made, err := r.owner.Subscribe(ctx, topic, name)
	if err != nil {
		return Subscription{}, ownerProblem(err)
	}
	info, err := r.owner.Topic(topic)
	if err != nil {
		return Subscription{}, ownerProblem(err)
	}
	for _, s := range info.Subscriptions {
		if s.UID == made.UID {
			return subscriptionView(s), nil
		}
	}
	return Subscription{}, notFound("make it again", "subscription %s/%s was removed at once", topic, name)
}

func (r registryOwner) Unsubscribe(ctx context.Context, topic, name string) error {
	_, err := r.owner.Unsubscribe(ctx, topic, name)
	return ownerProblem(err)
}

func (r registryOwner) ForgetOutbox(ctx context.Context, uuid string) error {
	return ownerProblem(r.owner.ForgetOutbox(ctx, uuid))
}

// Reports gives an outbox without a report an empty one.
func (r registryOwner) Reports(context.Context) ([]outbox.Report, error) {
	if !r.owner.Running() {
		return nil, ownerProblem(topics.ErrNotRunning)
	}
	reports := []outbox.Report{}
	for _, info := range r.owner.Outboxes() {
		switch {
		case info.Forgotten:
		case info.Report == nil:
			reports = append(reports, outbox.Report{Outbox: info.UUID, Name: info.Name})
		default:
			reports = append(reports, *info.Report)
		}
	}
	return reports, nil
}

func topicView(info topics.TopicInfo) Topic {
	t := Topic{
		Name: info.Name, Delivery: string(info.Delivery), NoSubscribers: string(info.NoSubscribers), Keyed: info.Keyed,
		Version: info.Version, Subscriptions: []Subscription{},
	}
	for _, s := range info.Subscriptions {
		t.Subscriptions = append(t.Subscriptions, subscriptionView(s))
	}
	return t
}

func subscriptionView(s topics.SubscriptionInfo) Subscription {
	return Subscription{
		UID: s.UID, Topic: s.Topic, Name: s.Name, State: string(s.State), CreatedAtMS: s.Created.UnixMilli(),
		WaitingRows: s.Waiting, MissingFrom: s.MissingFrom,
	}
}

// ownerProblem gives the owner's errors the code that a client decides by.
func ownerProblem(err error) error {
	if err == nil {
		return nil
	}
	var code string
	switch {
	case errors.Is(err, topics.ErrUnknownTopic), errors.Is(err, topics.ErrUnknownSubscription), errors.Is(err, topics.ErrUnknownOutbox):
		code = CodeNotFound
	case errors.Is(err, topics.ErrTopicExists), errors.Is(err, topics.ErrInFlight), errors.Is(err, topics.ErrConflict):
		code = CodeConflict
	case errors.Is(err, topics.ErrInvalid):
		code = CodeInvalid
	case errors.Is(err, topics.ErrNotRunning):
		code = CodeUnavailable
	default:
		return err
	}
	return &Problem{Code: code, Message: strings.TrimPrefix(err.Error(), "topics: ")}
}
