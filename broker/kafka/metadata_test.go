package kafka

import (
	"errors"
	"io"
	"testing"
)

// answering gives fixed bytes as the broker's answer.
type answering struct{ rest []byte }

func (a *answering) Write(b []byte) (int, error) { return len(b), nil }

func (a *answering) Read(b []byte) (int, error) {
	if len(a.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// answer of one node with one topic of two partitions, the second without a leader.
func someAnswer() []byte {
	body := []byte{0, 0, 0, 1, 0, 0, 0, 0, 0}
	body = append(body, 2, 0, 0, 0, 1, 3, 'h', 'o', 0, 0, 0, 80, 0, 0) // node 1, ho:80, no rack
	body = append(body, 0, 0, 0, 0, 1)                                 // no cluster id, controller 1
	body = append(body, 2, 0, 0, 2, 't')
	for i := range 16 {
		body = append(body, byte(i))
	}
	body = append(body, 0, 3)
	body = append(body, 0, 0, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0, 0, 1, 1, 1, 0)
	body = append(body, 0, 5, 0, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0, 2, 0, 0, 0, 4, 1, 1, 0)
	body = append(body, 0, 0, 0, 0, 0)
	body = append(body, 0, 0, 0, 0, 0)
	return append([]byte{0, 0, 0, byte(len(body))}, body...)
}

func TestMetadataAnswer(t *testing.T) {
	t.Parallel()
	m, err := (&metadataRequest{clientID: "c", topics: []string{"t"}}).RawExchange(&answering{someAnswer()})
	if err != nil {
		t.Fatal(err)
	}
	topics := m.(*metadataAnswer).topics
	if len(topics) != 1 || topics[0].name != "t" || topics[0].id != "000102030405060708090a0b0c0d0e0f" {
		t.Fatalf("%+v", topics)
	}
	if got := topics[0].leaders; len(got) != 2 || got[0] != -1 || got[1] != 9 {
		t.Errorf("leaders %v", got)
	}
	for n := range someAnswer() {
		if _, err := (&metadataRequest{}).RawExchange(&answering{someAnswer()[:n]}); err == nil {
			t.Fatalf("%d of the bytes are taken for an answer", n)
		}
	}
}

func FuzzMetadataAnswer(f *testing.F) {
	f.Add(someAnswer()[4:])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) > 1<<16 {
			return
		}
		n := len(body)
		m, err := (&metadataRequest{}).RawExchange(&answering{append([]byte{0, byte(n >> 16), byte(n >> 8), byte(n)}, body...)})
		if err != nil && !errors.Is(err, errAnswer) {
			t.Fatal(err)
		}
		if err == nil {
			for _, topic := range m.(*metadataAnswer).topics {
				if len(topic.leaders) != len(topic.numbers) {
					t.Errorf("%+v", topic)
				}
			}
		}
	})
}

func TestMarks(t *testing.T) {
	t.Parallel()
	m := mark{offset: 7, stream: "abc", window: 12}
	if got := parseMark(m.offset, m.metadata(), "abc"); got != m {
		t.Errorf("%+v became %+v", m, got)
	}
	for _, metadata := range []string{"", "something", "1 abc x", "2 abc 3", "1  "} {
		if got := parseMark(7, metadata, "abc"); got.offset != 7 || got.stream != "abc" || got.window != 0 {
			t.Errorf("%q: %+v", metadata, got)
		}
	}
	if !parseMark(-1, "", "abc").none() {
		t.Error("nothing committed counts as something")
	}
}
