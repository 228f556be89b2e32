//go:build !linux

package sqlite

// fileSystemOf is not known here.
func fileSystemOf(string) (name string, local bool) { return "", true }

// freeBytes is not known here.
func freeBytes(string) (free int64, known bool) { return 0, false }
