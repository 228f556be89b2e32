package main

import (
	"fmt"
	"os"
	"strings"
)

// combination is a suite on a database with a broker; none for what has no part in it.
type combination struct {
	Suite    string `json:"suite"`
	Database string `json:"database"`
	Broker   string `json:"broker"`
}

func (c combination) String() string {
	text := c.Suite
	if c.Database != none {
		text += " on " + c.Database
	}
	if c.Broker != none {
		text += " with " + c.Broker
	}
	return text
}

// excuse says why a combination need not run.
type excuse struct {
	combination
	reason string
}

// readExcuses reads a file of lines "suite | database | broker | reason"; "-" where a database or a broker has no part. Empty lines and
// those that begin with # say nothing.
func readExcuses(path string) ([]excuse, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read what need not run: %w", err)
	}
	var all []excuse
	for i, line := range strings.Split(string(text), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		parts := strings.SplitN(line, "|", 4)
		for k := range parts {
			parts[k] = strings.TrimSpace(parts[k])
		}
		if len(parts) != 4 || parts[3] == "" {
			return nil, fmt.Errorf("%s:%d: %q: write suite | database | broker | reason", path, i+1, line)
		}
		all = append(all, excuse{combination{parts[0], parts[1], parts[2]}, parts[3]})
	}
	return all, nil
}
