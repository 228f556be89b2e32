package nats

import (
	"strconv"
	"strings"
	"time"
)

// delivered is what JetStream says of a message in its reply subject (ADR-15):
// $JS.ACK.<stream>.<consumer>.<delivered>.<offset>.<consumer sequence>.<time>.<pending>, or, since server 2.2 with domains,
// $JS.ACK.<domain>.<account>.<stream>.… with a random token at the end.
type delivered struct {
	// times is how often it was delivered, 1 for the first time.
	times uint64
	// offset in the stream and number of the delivery in the consumer's life.
	offset, sequence uint64
	stored           time.Time
	// pending counts what the consumer has still to deliver after it.
	pending uint64
}

const ackPrefix = "$JS.ACK."

// parseReply reports false for what is not a message of a stream.
func parseReply(reply string) (delivered, bool) {
	if !strings.HasPrefix(reply, ackPrefix) {
		return delivered{}, false
	}
	dots := strings.Count(reply, ".")
	skip := 2 // stream and consumer
	switch {
	case dots == 8:
	case dots >= 10:
		skip = 4
	default:
		return delivered{}, false
	}
	rest := reply[len(ackPrefix):]
	for range skip {
		_, rest, _ = strings.Cut(rest, ".")
	}
	var numbers [5]uint64
	for i := range numbers {
		var token string
		token, rest, _ = strings.Cut(rest, ".")
		n, err := strconv.ParseUint(token, 10, 64)
		if err != nil {
			return delivered{}, false
		}
		numbers[i] = n
	}
	return delivered{
		times: numbers[0], offset: numbers[1], sequence: numbers[2],
		stored: time.Unix(0, int64(numbers[3])).UTC(), pending: numbers[4],
	}, true
}
