package outbox

import (
	"encoding/json"
	"testing"

	"github.com/twostep-mq/twostep/broker"
)

func announced(t *testing.T, key string, v any) broker.StateEvent {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return broker.StateEvent{Key: key, Value: b}
}

func topicWith(version int64, uids ...string) RegistryTopic {
	t := RegistryTopic{Name: "pay", Version: version}
	for _, uid := range uids {
		s := RegistrySubscription{UID: uid, Topic: "pay", Name: uid}
		if uid[0] == '-' {
			s.UID, s.Removed = uid[1:], true
		}
		t.Subscriptions = append(t.Subscriptions, s)
	}
	return t
}

// TestViewOnlyGrows: whatever is announced in whatever order, and however often the broker loses it.
func TestViewOnlyGrows(t *testing.T) {
	t.Parallel()
	v := newRegistryView()
	for _, ev := range []broker.StateEvent{
		announced(t, StateTopicPrefix+"pay", topicWith(5, "a", "b")),
		{Reset: true},
		announced(t, StateTopicPrefix+"pay", topicWith(3, "a", "c")), // an owner thought dead
		announced(t, StateTopicPrefix+"pay", topicWith(6, "-b")),
		{Key: StateTopicPrefix + "pay"}, // deleted
		{Key: StateTopicPrefix + "pay", Value: []byte("no json")},
		announced(t, StateTopicPrefix+"pay", topicWith(4, "b")),
	} {
		v.apply(ev)
	}
	removed := map[string]bool{}
	for _, s := range v.topics["pay"].Subscriptions {
		removed[s.UID] = s.Removed
	}
	if len(removed) != 3 || removed["a"] || !removed["b"] || removed["c"] || v.topics["pay"].Version != 6 {
		t.Errorf("the view is %+v", v.topics["pay"])
	}
}

func TestHeadDecides(t *testing.T) {
	t.Parallel()
	m := &memory{uuid: "box", head: RegistryHead{Owner: "o", Version: 5}}
	for name, c := range map[string]struct {
		head *RegistryHead
		want bool
	}{
		"none":                    {nil, false},
		"same":                    {&RegistryHead{Owner: "o", Version: 5}, true},
		"newer":                   {&RegistryHead{Owner: "o", Version: 9}, true},
		"older":                   {&RegistryHead{Owner: "o", Version: 4}, false},
		"another's":               {&RegistryHead{Owner: "p", Version: 9}, false},
		"another's that knows us": {&RegistryHead{Owner: "p", Version: 9, Merged: []string{"x", "box"}}, true},
		"knows us, older":         {&RegistryHead{Owner: "p", Version: 4, Merged: []string{"box"}}, false},
	} {
		if got := m.decides(c.head); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	m.head = RegistryHead{}
	if !m.decides(&RegistryHead{Owner: "o", Version: 0}) {
		t.Error("an outbox that has recorded nothing takes any head")
	}
}
