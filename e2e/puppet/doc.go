// Package puppet tests enrolment and mutual TLS with a real Puppet CA: Debian's puppetserver, as a plain user, in one folder.
// Its test has the build tag puppet: see "make e2e-puppet".
package puppet
