package watermill

import (
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/twostep-mq/twostep/broker"
)

// Whatever UUID and metadata a message has, it comes back with them; whatever headers come, decoding them is harmless.
func FuzzMetadata(f *testing.F) {
	f.Add("id", "name", "value", "eyJ9")
	f.Add("", "", "", "WyIiXQ")
	f.Add("ü", "twostep-key", " k", "WzFd")
	f.Add("a b", "content-type", "application/octet-stream", "W10")
	f.Fuzz(func(t *testing.T, id, name, value, packed string) {
		m := message.NewMessage(id, []byte(value))
		m.Metadata[name] = value
		out, err := encode(m)
		if err != nil {
			t.Fatal(err)
		}
		for header, v := range out.headers {
			if header != headerUUID && (!isPlain(v) || header != headerPacked && !isHeader(header)) {
				t.Errorf("header %q: %q", header, v)
			}
		}
		got := decode(&broker.Message{ID: "the id", Key: out.key, ContentType: out.contentType, Headers: out.headers, Payload: out.payload})
		if id == "" {
			m.UUID = "the id"
		}
		if !got.Equals(m) {
			t.Errorf("got %q %q, want %q %q", got.UUID, got.Metadata, m.UUID, m.Metadata)
		}
		decode(&broker.Message{ID: id, Headers: map[string]string{headerUUID: id, headerPacked: packed, name: value}})
	})
}
