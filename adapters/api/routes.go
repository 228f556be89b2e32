package api

import "net/http"

// Prefix begins the paths of the API proper.
const Prefix = "/api/v1"

// Route is one method and path of the server.
type Route struct {
	// Method is GET, POST or DELETE; a GET changes nothing. Path is a pattern of http.ServeMux.
	Method, Path string
	// Summary is one line for the documentation.
	Summary string
	serve   func(s *Server, r *http.Request) (status int, body any, err error)
}

// Changes reports whether the route may change something.
func (r Route) Changes() bool { return r.Method != http.MethodGet }

// Routes is the table of all routes but /metrics.
func Routes() []Route {
	return []Route{
		{"GET", "/healthz", "the process lives", (*Server).healthz},
		{"GET", "/readyz", "broker and database answer and the registry is loaded; else 503", (*Server).readyz},

		{"GET", Prefix + "/topics", "all topics with their subscriptions", (*Server).listTopics},
		{"POST", Prefix + "/topics", "make a topic", (*Server).createTopic},
		{"GET", Prefix + "/topics/{topic}", "one topic with its subscriptions", (*Server).showTopic},
		{"DELETE", Prefix + "/topics/{topic}", "delete a topic (?force=true: with messages in flight)", (*Server).deleteTopic},
		{"GET", Prefix + "/topics/{topic}/subscriptions", "its subscriptions", (*Server).listSubscriptions},
		{"POST", Prefix + "/topics/{topic}/subscriptions", "make a subscription", (*Server).createSubscription},
		{"DELETE", Prefix + "/topics/{topic}/subscriptions/{name}", "remove a subscription: nobody waits for it any more", (*Server).deleteSubscription},

		{"GET", Prefix + "/outboxes", "outboxes by their relays' reports (?stuck=true: the stuck ones)", (*Server).listOutboxes},
		{"DELETE", Prefix + "/outboxes/{uuid}", "forget an outbox that is gone for good", (*Server).forgetOutbox},

		{"GET", Prefix + "/transactions", "what is not released or is parked (?topic, ?limit)", (*Server).listTransactions},
		{"GET", Prefix + "/transactions/{gid}", "the messages of one global transaction that are not done", (*Server).showTransaction},

		{"GET", Prefix + "/dead", "dead letters (?topic, ?state, ?limit)", (*Server).listDead},
		{"GET", Prefix + "/dead/{uid}/{id}", "one parked message with its payload", (*Server).showDead},
		{"POST", Prefix + "/dead/{uid}/{id}/replay", "run a dead letter again", (*Server).replayDead},
		{"POST", Prefix + "/dead/{uid}/{id}/drop", "drop a dead letter for good", (*Server).dropDead},
		{"GET", Prefix + "/dead/{topic}/{name}/{id}", "the same by topic and subscription", (*Server).showDead},
		{"POST", Prefix + "/dead/{topic}/{name}/{id}/replay", "the same by topic and subscription", (*Server).replayDead},
		{"POST", Prefix + "/dead/{topic}/{name}/{id}/drop", "the same by topic and subscription", (*Server).dropDead},
	}
}
