// Package choria manages our poller and receiver through Choria: a real broker with TLS, the real choria command, and a plain
// nats-server for those who have no Choria. Its tests have the build tag choria: see "make e2e-choria".
package choria
