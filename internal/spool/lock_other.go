//go:build !darwin && !dragonfly && !freebsd && !linux && !netbsd && !openbsd

package spool

import "os"

// lockFile does nothing: there is no lock here that a crash would give back.
func lockFile(*os.File) error { return nil }
