package choria

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/choria-io/go-choria/config"
	"github.com/choria-io/go-choria/protocol"
)

// choriaConfig is go-choria's configuration. It comes from a generated file in our private directory, for three reasons:
// without an identity in a file go-choria asks DNS and runs facter, other ways to make one merge what lies in the working
// directory, and the file's directory is where it looks for more files.
func (s *Server) choriaConfig() (*config.Config, error) {
	collectives := s.cfg.collectives()
	file := filepath.Join(s.dir, "server.conf")
	text := fmt.Sprintf("identity = %s\ncollectives = %s\nmain_collective = %s\nloglevel = warn\n",
		s.cfg.Identity, strings.Join(collectives, ","), collectives[0])
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, err
	}
	c, err := config.NewSystemConfig(file, true)
	if err != nil {
		return nil, err
	}
	c.RegistrationCollective = collectives[0]
	c.CustomLogger = s.logger
	c.FactSourceFile = s.factsFile()
	c.ClassesFile = filepath.Join(s.dir, "classes.txt")
	c.RPCAuthorization = false // gate decides, over all agents alike
	c.Choria.UseSRVRecords = false
	c.Choria.MiddlewareHosts = s.cfg.Brokers
	c.OverrideCertname = s.cfg.Identity // else one that does not run as root is taken for a user
	if s.cfg.TLS == nil {
		protocol.Secure = "false"
		c.DisableTLS, c.DisableSecurityProviderVerify = true, true
		c.Choria.SecurityProvider = "file"
		return c, nil
	}
	protocol.Secure = "true"
	c.DisableTLS = false
	c.OverrideCertname = s.cfg.TLS.Identity
	switch t := s.cfg.TLS; t.Scheme {
	case Manual:
		c.Choria.SecurityProvider = "file"
		c.Choria.FileSecurityCA, c.Choria.FileSecurityCertificate, c.Choria.FileSecurityKey = t.CA, t.Cert, t.Key
	case Puppet:
		c.Choria.SecurityProvider = "puppet"
		c.Choria.SSLDir = t.SSLDir
	default:
		return nil, fmt.Errorf("tls: scheme %q is neither puppet nor manual", t.Scheme)
	}
	return c, nil
}
