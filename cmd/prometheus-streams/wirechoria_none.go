//go:build nochoria

package main

import "fmt"

// choria says that this build has no Choria, if it is asked for.
func (h *house) choria() error {
	if h.cfg.Management.Choria() {
		return fmt.Errorf("management.brokers: this build is without Choria (nochoria); micro and HTTP are there")
	}
	return nil
}
