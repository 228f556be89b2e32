package embedded

import (
	"fmt"
	"log/slog"
	"strings"
)

// serverLog hands the server's log to slog. What the server calls fatal ends no process here: Start reports it.
type serverLog struct {
	log   *slog.Logger
	fatal chan string
	// broken gets the first write error after which a stream takes nothing more; see repair.
	broken chan string
}

// writeError stands in what the server logs when a stream's store has failed. It tells nobody in another way: publishers get no
// answer, and nothing it exports shows it. TestFullDisk notices if the words change.
const writeError = "ritical write error"

func (l *serverLog) Noticef(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }

func (l *serverLog) Warnf(format string, v ...any) { l.log.Warn(fmt.Sprintf(format, v...)) }

func (l *serverLog) Errorf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	l.log.Error(text)
	if strings.Contains(text, writeError) {
		select {
		case l.broken <- text:
		default:
		}
	}
}

func (l *serverLog) Fatalf(format string, v ...any) {
	reason := fmt.Sprintf(format, v...)
	l.log.Error(reason)
	select {
	case l.fatal <- reason:
	default:
	}
}

func (l *serverLog) Debugf(string, ...any) {}

func (l *serverLog) Tracef(string, ...any) {}
