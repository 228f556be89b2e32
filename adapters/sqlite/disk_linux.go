package sqlite

import (
	"fmt"
	"syscall"
)

// fileSystemOf names the file system of a path, and tells whether it is this machine's own. An empty name: nobody knows.
func fileSystemOf(path string) (name string, local bool) {
	var s syscall.Statfs_t
	if syscall.Statfs(path, &s) != nil {
		return "", true
	}
	// Numbers of linux/magic.h and of the file systems themselves.
	known := map[uint32]struct {
		name  string
		local bool
	}{
		0xef53: {"ext4", true}, 0x58465342: {"xfs", true}, 0x9123683e: {"btrfs", true}, 0x01021994: {"tmpfs", true}, 0x794c7630: {"overlay", true},
		0x2fc12fc1: {"zfs", true}, 0xf2f52010: {"f2fs", true}, 0xca451a4e: {"bcachefs", true},
		0x6969: {"nfs", false}, 0x517b: {"smb", false}, 0xff534d42: {"cifs", false}, 0xfe534d42: {"smb2", false}, 0x01021997: {"9p", false},
		0x00c36400: {"ceph", false}, 0x5346414f: {"afs", false}, 0x0bd00bd0: {"lustre", false}, 0x01161970: {"gfs2", false}, 0x7461636f: {"ocfs2", false},
	}
	kind := uint32(s.Type)
	if k, ok := known[kind]; ok {
		return k.name, k.local
	}
	return fmt.Sprintf("type %#x", kind), true
}

// freeBytes on the disk of a path, for users that are not root.
func freeBytes(path string) (free int64, known bool) {
	var s syscall.Statfs_t
	if syscall.Statfs(path, &s) != nil {
		return 0, false
	}
	return int64(s.Bavail) * s.Bsize, true
}
