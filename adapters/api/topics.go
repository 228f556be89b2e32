package api

import (
	"net/http"

	"github.com/twostep-mq/twostep/outbox"
)

func (s *Server) listTopics(r *http.Request) (int, any, error) {
	if _, err := query(r); err != nil {
		return 0, nil, err
	}
	all, err := s.owner.Topics(r.Context())
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, TopicList{Topics: nonNil(all)}, nil
}

func (s *Server) createTopic(r *http.Request) (int, any, error) {
	var c CreateTopic
	if err := decodeBody(r, &c); err != nil {
		return 0, nil, err
	}
	settings, err := c.settings()
	if err != nil {
		return 0, nil, err
	}
	t, err := s.owner.CreateTopic(r.Context(), c.Name, settings)
	return http.StatusCreated, t, err
}

// settings fills in what was left out and refuses words that mean nothing.
func (c CreateTopic) settings() (outbox.TopicSettings, error) {
	s := outbox.TopicSettings{Delivery: outbox.DeliveryConfirmed, NoSubscribers: outbox.NoSubscribersHold, Keyed: c.Keyed}
	switch d := outbox.Delivery(c.Delivery); d {
	case outbox.DeliveryConfirmed, outbox.DeliveryBroker:
		s.Delivery = d
	case "":
	default:
		return s, invalid("use confirmed or broker", "delivery is %q", c.Delivery)
	}
	switch n := outbox.NoSubscribers(c.NoSubscribers); n {
	case outbox.NoSubscribersHold, outbox.NoSubscribersDrop:
		s.NoSubscribers = n
	case "":
	default:
		return s, invalid("use hold or drop", "no_subscribers is %q", c.NoSubscribers)
	}
	return s, nil
}

func (s *Server) showTopic(r *http.Request) (int, any, error) {
	if _, err := query(r); err != nil {
		return 0, nil, err
	}
	t, err := s.owner.Topic(r.Context(), r.PathValue("topic"))
	return http.StatusOK, t, err
}

func (s *Server) deleteTopic(r *http.Request) (int, any, error) {
	q, err := query(r, "force")
	if err != nil {
		return 0, nil, err
	}
	force, err := boolean(q, "force")
	if err != nil {
		return 0, nil, err
	}
	topic := r.PathValue("topic")
	left, err := s.owner.DeleteTopic(r.Context(), topic, force)
	return http.StatusOK, TopicDeleted{Topic: topic, Left: left}, err
}

func (s *Server) listSubscriptions(r *http.Request) (int, any, error) {
	if _, err := query(r); err != nil {
		return 0, nil, err
	}
	t, err := s.owner.Topic(r.Context(), r.PathValue("topic"))
	return http.StatusOK, SubscriptionList{Subscriptions: nonNil(t.Subscriptions)}, err
}

func (s *Server) createSubscription(r *http.Request) (int, any, error) {
	var c CreateSubscription
	if err := decodeBody(r, &c); err != nil {
		return 0, nil, err
	}
	sub, err := s.owner.Subscribe(r.Context(), r.PathValue("topic"), c.Name)
	return http.StatusCreated, sub, err
}

func (s *Server) deleteSubscription(r *http.Request) (int, any, error) {
	if _, err := query(r); err != nil {
		return 0, nil, err
	}
	err := s.owner.Unsubscribe(r.Context(), r.PathValue("topic"), r.PathValue("name"))
	return http.StatusNoContent, nil, err
}

// boolean reads a query parameter that is true or false; absent: false.
func boolean(q map[string]string, name string) (bool, error) {
	switch q[name] {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	}
	return false, invalid("use true or false", "query parameter %s is %q", name, q[name])
}

// nonNil makes an empty list print as [].
func nonNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
