package nats

import "strings"

// Percent-encoding of header values as in the HTTP binding of CloudEvents 1.0, section 3.1.3.2: everything but the printable
// ASCII characters is encoded, and so are space, double quote and percent.

const hexDigits = "0123456789ABCDEF"

// mustEscape reports whether c is encoded. A content type keeps its spaces and quotes: other programs read it as it is.
func mustEscape(c byte, contentType bool) bool {
	switch {
	case c == '%', c < ' ', c > '~':
		return true
	case c == ' ', c == '"':
		return !contentType
	}
	return false
}

func escape(s string) string { return escapeWith(s, false) }

// escapeContentType leaves inner spaces and quotes alone; at the ends a reader would trim spaces.
func escapeContentType(s string) string {
	trimmed := strings.Trim(s, " ")
	return escapeWith(s, len(trimmed) == len(s))
}

func escapeWith(s string, contentType bool) string {
	n := 0
	for i := range len(s) {
		if mustEscape(s[i], contentType) {
			n++
		}
	}
	if n == 0 {
		return s
	}
	var out strings.Builder
	out.Grow(len(s) + 2*n)
	for i := range len(s) {
		c := s[i]
		if mustEscape(c, contentType) {
			out.WriteByte('%')
			out.WriteByte(hexDigits[c>>4])
			out.WriteByte(hexDigits[c&15])
		} else {
			out.WriteByte(c)
		}
	}
	return out.String()
}

// unescape decodes; a percent sign that begins no code stands for itself.
func unescape(s string) string {
	if strings.IndexByte(s, '%') < 0 {
		return s
	}
	var out strings.Builder
	out.Grow(len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			hi, ok1 := unhex(s[i+1])
			lo, ok2 := unhex(s[i+2])
			if ok1 && ok2 {
				out.WriteByte(hi<<4 | lo)
				i += 2
				continue
			}
		}
		out.WriteByte(s[i])
	}
	return out.String()
}

func unhex(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}
