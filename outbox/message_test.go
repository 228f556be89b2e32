package outbox

import (
	"regexp"
	"strings"
	"testing"
)

// TestNames compares the checks of names with the rules of docs/reference.md, written as regular expressions.
func TestNames(t *testing.T) {
	t.Parallel()
	topics := regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}(\.[A-Za-z0-9_-]{1,64})*$`)
	gids := regexp.MustCompile(`^[A-Za-z0-9._:-]{1,128}$`)
	names := []string{
		"", "a", "bank.trans-in", "a_b.C-9", ".", ".a", "a.", "a..b", "a b", "a\n", "a/b", "a:b", "ä", "a.ä", "\x00", "\xff", "@", "[", "`", "{", "/", "*", "a.>",
		strings.Repeat("a", 64), strings.Repeat("a", 65), "b." + strings.Repeat("a", 64), "b." + strings.Repeat("a", 65),
		strings.Repeat("a", 64) + "." + strings.Repeat("b", 63), strings.Repeat("a", 64) + "." + strings.Repeat("b", 64),
		strings.Repeat("a.", 63) + "a", strings.Repeat("a.", 64) + "a", strings.Repeat("x", 128), strings.Repeat("x", 129), strings.Repeat(":", 128),
	}
	for c := range 256 {
		names = append(names, "x"+string([]byte{byte(c)})+"y")
	}
	for _, name := range names {
		if want, got := len(name) <= MaxTopic && topics.MatchString(name), ValidTopic(name) == nil; got != want {
			t.Errorf("ValidTopic(%q) accepts: %v, want %v", name, got, want)
		}
		if want, got := gids.MatchString(name), ValidGID(name) == nil; got != want {
			t.Errorf("ValidGID(%q) accepts: %v, want %v", name, got, want)
		}
	}
}
