package broker

// Level says how much a Finding matters.
type Level string

const (
	// LevelOK: as it should be.
	LevelOK Level = "ok"
	// LevelNote: works, and is worth knowing.
	LevelNote Level = "note"
	// LevelWarning: works now, and can hurt later.
	LevelWarning Level = "warning"
	// LevelError: a promise does not hold, or nothing works, until it is changed.
	LevelError Level = "error"
)

// Finding is one line of an examination of a database or a broker: what was looked at, what it is, and what to change.
type Finding struct {
	// Check names what was looked at, in words that stay the same: "durability", "sequence cache".
	Check string `json:"check"`
	Level Level  `json:"level"`
	// Value is what was found, as the server says it: "synchronous_commit = off".
	Value string `json:"value"`
	// Problem says what goes wrong because of it; empty where nothing does.
	Problem string `json:"problem,omitempty"`
	// Fix is the statement, command or setting that changes it.
	Fix string `json:"fix,omitempty"`
}
