//go:build !darwin && !dragonfly && !freebsd && !linux && !netbsd && !openbsd

package enroll

import "os"

// lockFile does nothing: there is no lock here that a crash would give back.
func lockFile(*os.File) error { return nil }

// owner is whose the files are.
type owner struct{ uid, gid int }

// ownerOf is nobody: files are of who makes them.
func ownerOf(os.FileInfo) *owner { return nil }
