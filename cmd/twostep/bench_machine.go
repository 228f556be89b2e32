package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/mattn/go-sqlite3"
)

// benchMachine says what was measured on and with.
type benchMachine struct {
	CPU     string `json:"cpu"`
	CPUs    int    `json:"cpus"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
	Go      string `json:"go"`
	Twostep string `json:"twostep"`
	SQLite  string `json:"sqlite"`
	// Databases are those of bank A and bank B, with their versions.
	Databases  [2]string `json:"databases"`
	NATSServer string    `json:"nats_server"`
	NATSClient string    `json:"nats_client"`
	// FsyncUS is the median time of writing 4 KiB and fsync, in microseconds.
	FsyncUS float64 `json:"fsync_us"`
}

func describeMachine(ctx context.Context, rig *benchRig) (m benchMachine, err error) {
	m = benchMachine{
		CPU: cpuModel(), CPUs: runtime.NumCPU(), OS: runtime.GOOS, Arch: runtime.GOARCH, Go: runtime.Version(), Twostep: version(),
		NATSServer: moduleVersion("github.com/nats-io/nats-server/v2"), NATSClient: moduleVersion("github.com/nats-io/nats.go"),
	}
	m.SQLite, _, _ = sqlite3.Version()
	for i, bank := range []*benchBank{rig.a, rig.b} {
		if m.Databases[i], err = bank.Version(ctx); err != nil {
			return m, err
		}
	}
	m.FsyncUS, err = measureFsync(rig.dir)
	return m, err
}

// fsyncs are measured for the median.
const fsyncs = 101

// measureFsync writes blocks of 4 KiB to a file in dir as SQLite writes its log, each followed by an fsync.
func measureFsync(dir string) (microseconds float64, err error) {
	f, err := os.Create(filepath.Join(dir, "fsync"))
	if err != nil {
		return 0, fmt.Errorf("measure fsync: %w", err)
	}
	defer func() { _, _ = f.Close(), os.Remove(f.Name()) }()
	block := make([]byte, 4096)
	times := make([]time.Duration, fsyncs)
	for i := range times {
		if _, err := f.WriteAt(block, int64(i)*int64(len(block))); err != nil {
			return 0, fmt.Errorf("measure fsync: %w", err)
		}
		start := time.Now()
		if err := f.Sync(); err != nil {
			return 0, fmt.Errorf("measure fsync: %w", err)
		}
		times[i] = time.Since(start)
	}
	slices.Sort(times)
	return rounded(float64(times[len(times)/2]) / float64(time.Microsecond)), nil
}

// cpuModel is what the kernel calls the processor, where it tells.
func cpuModel() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	defer func() { _ = f.Close() }()
	for s := bufio.NewScanner(f); s.Scan(); {
		if name, value, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// moduleVersion is the version of a module this binary was built with.
func moduleVersion(path string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, m := range info.Deps {
		if m.Path == path {
			return strings.TrimPrefix(m.Version, "v")
		}
	}
	return ""
}
