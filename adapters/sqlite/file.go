package sqlite

import (
	"os"
	"sync"
)

// dbFile is what this process knows of the file at one path, whoever opened it: the queue of its writers, and the connection they
// write on, one after the other.
//
// A connection's page cache is good for as long as nobody else writes. Were each session to write on a connection of its own, each
// would read again what the one before it wrote; on the shared one nearly nothing is read twice.
type dbFile struct {
	gate gate

	mu     sync.Mutex
	pools  int   // how many *sql.DB are open
	writer *link // nil: in use, or not open yet. Whoever is in at the gate takes it and puts it back.
	seen   os.FileInfo
	lives  int
}

// lifeOf numbers the files that have stood at the path: another file has another number.
func (f *dbFile) lifeOf(file os.FileInfo) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.seen == nil || !os.SameFile(f.seen, file) {
		f.seen = file
		f.lives++
	}
	return f.lives
}

// take takes the writers' connection; nil if there is none. The caller is in at the gate.
func (f *dbFile) take() *link {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := f.writer
	f.writer = nil
	return w
}

// put puts the writers' connection back. With the last *sql.DB it is closed.
func (f *dbFile) put(w *link) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pools > 0 {
		f.writer = w
		return
	}
	_ = w.inner.Close()
}

func (f *dbFile) open() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pools++
}

func (f *dbFile) close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pools--
	w := f.writer
	if f.pools > 0 || w == nil {
		return nil
	}
	f.writer = nil
	return w.inner.Close()
}

// files is the one piece of package state: two *sql.DB of the same file must queue at the same gate, whoever opened
// them. It affects only waiting times and what is read twice; an entry for each file ever opened stays, some hundred bytes.
//
//nolint:gochecknoglobals // see above: the queue of a file is the process's
var files = fileSet{byPath: map[string]*dbFile{}}

type fileSet struct {
	mu     sync.Mutex
	byPath map[string]*dbFile
}

func (s *fileSet) get(path string) *dbFile {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, ok := s.byPath[path]
	if !ok {
		f = &dbFile{}
		s.byPath[path] = f
	}
	return f
}
