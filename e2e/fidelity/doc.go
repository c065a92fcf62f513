// Package fidelity compares what two Prometheus servers hold: one scrapes targets itself, the other is fed by a poller, a
// nats-server and a receiver. The targets show each of the two the same bodies in the same order, so every sample, stale
// marker, exemplar, histogram and description has to be the same. Its test has the build tag fidelity: see "make fidelity".
package fidelity
