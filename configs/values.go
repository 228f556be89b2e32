package configs

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Secret is a value that is never printed: every formatter shows ***.
type Secret string

const masked = "***"

// String shows *** in place of a secret, and nothing for an empty one.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return masked
}

// GoString masks the secret in %#v.
func (s Secret) GoString() string { return strconv.Quote(s.String()) }

// LogValue masks the secret in logs.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalJSON masks the secret in JSON.
func (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }

// ByteSize is a number of bytes, written as 1048576, 512MiB or 8GiB.
type ByteSize int64

type byteUnit struct {
	suffix string
	factor int64
}

// byteUnits from the smallest to the largest.
func byteUnits() []byteUnit {
	return []byteUnit{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}}
}

// String writes the size with the largest unit that leaves a whole number.
func (b ByteSize) String() string {
	for _, u := range slices.Backward(byteUnits()) {
		if b != 0 && int64(b)%u.factor == 0 {
			return strconv.FormatInt(int64(b)/u.factor, 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// ParseByteSize reads what String writes.
func ParseByteSize(s string) (ByteSize, error) {
	number, factor := strings.TrimSpace(s), int64(1)
	for _, u := range byteUnits() {
		if rest, ok := strings.CutSuffix(number, u.suffix); ok {
			number, factor = strings.TrimSpace(rest), u.factor
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/factor {
		return 0, fmt.Errorf("%q is no size: use a number of bytes, or one with KiB, MiB, GiB or TiB, as 8GiB", s)
	}
	return ByteSize(n * factor), nil
}

// assign stores a value as it came from a file (typed), the environment or a flag (text) in the place it is for. The
// error says what form is wanted.
func assign(place, raw any) error {
	text, isText := raw.(string)
	switch p := place.(type) {
	case *string:
		if !isText {
			return fmt.Errorf("a text is wanted; put it in quotes")
		}
		*p = text
	case *Secret:
		if !isText {
			return fmt.Errorf("a text is wanted; put it in quotes")
		}
		*p = Secret(text)
	case *bool:
		switch {
		case raw == true || text == "true":
			*p = true
		case raw == false || text == "false":
			*p = false
		default:
			return fmt.Errorf("use true or false")
		}
	case *time.Duration:
		d, err := time.ParseDuration(text)
		if !isText || err != nil {
			return fmt.Errorf("use a time with its unit, as 15s or 1m30s")
		}
		*p = d
	case *int:
		n, err := strconv.Atoi(fmt.Sprint(raw))
		if err != nil {
			return fmt.Errorf("use a whole number")
		}
		*p = n
	case *ByteSize:
		if !isText {
			text = fmt.Sprint(raw)
		}
		size, err := ParseByteSize(text)
		if err != nil {
			return fmt.Errorf("use a number of bytes, or one with KiB, MiB, GiB or TiB, as 8GiB")
		}
		*p = size
	default:
		return fmt.Errorf("no way to set a %T", place)
	}
	return nil
}

// show writes the value in a place as a file would hold it; secrets are masked.
func show(place any) string {
	switch p := place.(type) {
	case *string:
		return *p
	case *Secret:
		return p.String()
	case *bool:
		return strconv.FormatBool(*p)
	case *int:
		return strconv.Itoa(*p)
	case *time.Duration:
		return showDuration(*p)
	case *ByteSize:
		return p.String()
	}
	return ""
}

// showDuration drops the zero units that Duration.String appends: 15m, not 15m0s.
func showDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
