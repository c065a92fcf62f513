package enroll

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
)

// maxName is what a name in a certificate may have (ub-common-name of RFC 5280).
const maxName = 64

// checkName refuses what a Puppet CA would not take, or would take for something else, and what is no file's name. The CA
// allows some characters more.
func checkName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("the name of the certificate is missing")
	case len(name) > maxName:
		return fmt.Errorf("the name %.20q… has %d characters: a certificate has room for %d", name, len(name), maxName)
	case name == "ca":
		return fmt.Errorf("%q is the CA's own name", name)
	case !regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$`).MatchString(name) || strings.Contains(name, ".."):
		return fmt.Errorf("%q cannot be the name of a Puppet certificate: small letters a-z, digits, and between them . _ -", name)
	}
	return nil
}

// defaultPort is the one of a Puppet server.
const defaultPort = "8140"

// address completes a host to host:port.
func address(ca string) (string, error) {
	if strings.Contains(ca, "/") {
		return "", fmt.Errorf("the CA %q is not HOST:PORT", ca)
	}
	host, port, err := net.SplitHostPort(ca)
	if err != nil {
		host, port = strings.TrimSuffix(strings.TrimPrefix(ca, "["), "]"), defaultPort
		if strings.Contains(host, ":") && net.ParseIP(host) == nil {
			return "", fmt.Errorf("the CA %q is not HOST:PORT: %w", ca, err)
		}
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if host == "" || err != nil || n == 0 || strings.ContainsAny(host, " @?#%\\") {
		return "", fmt.Errorf("the CA %q is not HOST:PORT", ca)
	}
	return net.JoinHostPort(host, port), nil
}

// parseFingerprint brings a SHA-256 into the form that fingerprint gives; "" stays.
func parseFingerprint(s string) (string, error) {
	digits := strings.ToLower(strings.ReplaceAll(strings.TrimSpace(s), ":", ""))
	raw, err := hex.DecodeString(digits)
	if err != nil || len(raw) != 0 && len(raw) != sha256.Size {
		return "", fmt.Errorf("the fingerprint %.80q is not a SHA-256: %d hexadecimal digits, with or without colons", s, 2*sha256.Size)
	}
	return digits, nil
}

// fingerprint is the SHA-256 as sha256sum prints it.
func fingerprint(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// colons is the SHA-256 as `puppetserver ca list` prints it.
func colons(data []byte) string {
	sum := sha256.Sum256(data)
	parts := make([]string, len(sum))
	for i, b := range sum {
		parts[i] = fmt.Sprintf("%02X", b)
	}
	return strings.Join(parts, ":")
}

// printable is what others say, for messages: a line of bounded length.
func printable(s string) string {
	s = strings.ToValidUTF8(strings.TrimSpace(s), "?")
	cut := ""
	if runes := []rune(s); len(runes) > 200 {
		s, cut = string(runes[:200]), "…"
	}
	return strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return ' '
		}
		return r
	}, s) + cut
}
