package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/twostep-mq/twostep/broker"
	"github.com/twostep-mq/twostep/configs"
)

// Files of the data folder; docs/reference.md lists them.
const (
	lockFile       = "lock"
	serverDatabase = "server.db"
	brokerFolder   = "broker"
	credentialFile = "broker.credential"
)

// folderBeat is how often a server looks whether its data folder still is the one it locked.
const folderBeat = 1500 * time.Millisecond

// dataFolder is a locked folder. While it is open, no other server uses it.
type dataFolder struct {
	path string // absolute
	lock *flock.Flock
	// seen has the identity (device and inode) of what must not be replaced under a running server, by path.
	seen map[string]fs.FileInfo
}

// openDataFolder makes the folder if it is not there, and locks it.
func openDataFolder(path string, log *slog.Logger) (*dataFolder, error) {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("data folder %s: %w", path, err)
	}
	if err := os.MkdirAll(absolute, 0o700); err != nil {
		return nil, fmt.Errorf("data folder %s cannot be made: %w: name another with --data or TWOSTEP_DATA", absolute, err)
	}
	info, err := os.Stat(absolute)
	if err != nil {
		return nil, fmt.Errorf("data folder %s: %w", absolute, err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		log.Warn("others can look into the data folder: run chmod 700 on it", "data", absolute, "mode", info.Mode().Perm().String())
	}
	f := &dataFolder{path: absolute, lock: flock.New(filepath.Join(absolute, lockFile), flock.SetFlag(os.O_CREATE|os.O_RDWR), flock.SetPermissions(0o600)), seen: map[string]fs.FileInfo{}}
	got, err := f.lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("data folder %s cannot be locked: %w: name another with --data or TWOSTEP_DATA", absolute, err)
	}
	if !got {
		return nil, fmt.Errorf("data folder %s is in use by %s: stop it, or name another folder with --data or TWOSTEP_DATA", absolute, f.holder())
	}
	if err := f.begin(); err != nil {
		return nil, errors.Join(err, f.lock.Unlock())
	}
	return f, nil
}

// begin writes the process id into the lock file, for people, and notes what the folder is.
func (f *dataFolder) begin() error {
	if err := os.WriteFile(f.file(lockFile), []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil {
		return fmt.Errorf("data folder %s: write the lock file: %w", f.path, err)
	}
	return errors.Join(f.note(f.path), f.note(f.file(lockFile)))
}

// holder says who holds the lock, as far as the lock file tells.
func (f *dataFolder) holder() string {
	raw, err := os.ReadFile(f.file(lockFile))
	pid := strings.TrimSpace(string(raw))
	if _, numeric := strconv.Atoi(pid); err != nil || numeric != nil {
		return "another process"
	}
	return "process " + pid
}

// file is the path of a file of the folder.
func (f *dataFolder) file(name string) string { return filepath.Join(f.path, name) }

// note remembers what is at path now, for watch.
func (f *dataFolder) note(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("data folder %s: %w", f.path, err)
	}
	f.seen[path] = info
	return nil
}

// watch returns an error when something noted has been moved, deleted or replaced, and nil when ctx ends. What a server writes after
// that would be lost with the next start.
func (f *dataFolder) watch(ctx context.Context) error {
	ticker := time.NewTicker(folderBeat)
	defer ticker.Stop()
	for {
		if err := f.check(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// check compares what was noted with what is there.
func (f *dataFolder) check() error {
	for _, path := range slices.Sorted(maps.Keys(f.seen)) { // the folder itself before what is in it
		info, err := os.Stat(path)
		if err == nil && os.SameFile(info, f.seen[path]) {
			continue
		}
		what := "was replaced"
		if err != nil {
			what = "is gone"
		}
		return fmt.Errorf("data folder %s: %s %s while the server runs: the server stops; put the folder back or start again on what is there", f.path, path, what)
	}
	return nil
}

// close gives the folder up. The lock file stays, so that nobody locks one that is about to be deleted.
func (f *dataFolder) close() error {
	if err := f.lock.Unlock(); err != nil {
		return fmt.Errorf("data folder %s: unlock: %w", f.path, err)
	}
	return nil
}

// serverFile is the path of a file in the configured data folder, whether that is there or not.
func serverFile(cfg configs.Config, name string) string { return filepath.Join(cfg.Data, name) }

// examineFolder looks at a data folder without locking it.
func examineFolder(path string) broker.Finding {
	f := broker.Finding{Check: "folder", Level: broker.LevelOK, Value: path}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.Level, f.Problem = broker.LevelNote, "it is not there yet; twostep serve makes it"
	case err != nil:
		f.Level, f.Problem, f.Fix = broker.LevelError, err.Error(), "name another with --data or TWOSTEP_DATA"
	case !info.IsDir():
		f.Level, f.Problem, f.Fix = broker.LevelError, "it is no folder", "name another with --data or TWOSTEP_DATA"
	case info.Mode().Perm()&0o077 != 0:
		f.Level, f.Problem, f.Fix = broker.LevelWarning, fmt.Sprintf("others can look into it (mode %04o): it holds the broker's credential", info.Mode().Perm()), "chmod 700 "+path
	}
	return f
}
