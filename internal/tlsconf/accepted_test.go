package tlsconf

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"strings"
	"testing"
)

// FuzzAccepted reads the names of authorities that a server says it takes.
func FuzzAccepted(f *testing.F) {
	name, err := asn1.Marshal(pkix.Name{CommonName: "Puppet CA: puppet"}.ToRDNSequence())
	if err != nil {
		f.Fatal(err)
	}
	if got, want := accepted([][]byte{name, []byte("x"), name}), "; it takes those of CN=Puppet CA: puppet, CN=Puppet CA: puppet"; got != want {
		f.Errorf("%q, want %q", got, want)
	}
	f.Add(name)
	f.Add([]byte{0x30, 0x84, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, raw []byte) {
		all := make([][]byte, 100)
		for i := range all {
			all[i] = raw
		}
		if got := accepted(all); len(got) > 2000 || strings.ContainsAny(got, "\n\r\x1b") {
			t.Errorf("%q", got)
		}
	})
}
