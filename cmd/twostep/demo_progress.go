package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// lineEvery is how often a line is printed where there is no terminal for a bar.
const lineEvery = 2 * time.Second

// demoProgress shows how many transfers have ended: as a bar on a terminal, else as a line now and then.
type demoProgress struct {
	mu      sync.Mutex
	w       io.Writer
	total   int
	bar     *progressbar.ProgressBar
	started time.Time
	printed time.Time
}

func newDemoProgress(w io.Writer, total int) *demoProgress {
	p := &demoProgress{w: w, total: total, started: time.Now(), printed: time.Now()}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.bar = progressbar.NewOptions(total, progressbar.OptionSetWriter(w), progressbar.OptionSetDescription("transfers"),
			progressbar.OptionShowCount(), progressbar.OptionSetWidth(30), progressbar.OptionThrottle(50*time.Millisecond),
			progressbar.OptionClearOnFinish(), progressbar.OptionSetPredictTime(false))
	}
	return p
}

// show takes how many transfers have ended and how many messages are not released: executed, perhaps, but not known to be.
func (p *demoProgress) show(ended, unreleased int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		_ = p.bar.Set(ended)
		return
	}
	if now := time.Now(); now.Sub(p.printed) >= lineEvery {
		p.printed = now
		_, _ = fmt.Fprintf(p.w, "%4.0fs  %d of %d transfers ended, %d messages not released\n", now.Sub(p.started).Seconds(), ended, p.total, unreleased)
	}
}

// close takes the bar away.
func (p *demoProgress) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		_ = p.bar.Clear()
	}
}
