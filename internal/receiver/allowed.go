package receiver

import (
	"fmt"
	"slices"
)

// notAllowed is the reason for which what an unnamed publisher sends is dropped.
const notAllowed = "publisher_not_allowed"

// allowed tells why a publisher is not received, if the process is limited to some others.
func (p *Pipeline) allowed(publisher string) error {
	if len(p.Only) == 0 || slices.Contains(p.Only, publisher) {
		return nil
	}
	return fmt.Errorf("receiver.publishers does not name the publisher %q", publisher)
}
