//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package enroll

import (
	"os"
	"syscall"
)

// lockFile takes the lock until the file is closed, also by the end of the process.
func lockFile(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) }

// owner is whose the files are.
type owner struct{ uid, gid int }

// ownerOf is whose files in a directory are to be if root makes them: its owner's, since it is for a service of that user.
func ownerOf(info os.FileInfo) *owner {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 || s.Uid == 0 {
		return nil
	}
	return &owner{int(s.Uid), int(s.Gid)}
}
