package main

import (
	"cmp"
	"context"
	"time"

	"github.com/choria-io/prometheus-streams/internal/config"
	"github.com/choria-io/prometheus-streams/internal/manage/lifecycle"
)

// network is a connection as far as events of Choria need it.
type network interface {
	IsConnected() bool
	Publish(subject string, data []byte) error
	ConnectedClusterName() string
	ConnectedServerId() string
}

// announceEvery is how often a connection that is not there yet is looked at.
const announceEvery = 500 * time.Millisecond

// announceLife publishes startup and shutdown on the connections of the streams, as version 1.0 published startup. The stream of
// a standalone is in its process: nobody listens there.
func (h *house) announceLife() {
	if !h.cfg.Management.Announces() || h.env.Role == config.StandaloneRole || len(h.networks) == 0 {
		return
	}
	a := &announcer{
		process: lifecycle.Process{Identity: h.cfg.Identity, Component: "prometheus_streams_" + string(h.env.Role), Version: h.env.Version},
		waiting: h.networks, told: map[string]network{},
	}
	h.actor(a.run)
}

// announcer tells each network once that the process is there, and at the end that it is gone. That nobody may hear it, or it
// may not be said, is no trouble.
type announcer struct {
	process lifecycle.Process
	waiting []network
	told    map[string]network // by cluster or server
}

func (a *announcer) run(ctx context.Context) error {
	tick := time.NewTicker(announceEvery)
	defer tick.Stop()
	for a.startup(); len(a.waiting) > 0; a.startup() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			a.shutdown()
			return nil
		}
	}
	<-ctx.Done()
	a.shutdown()
	return nil
}

// startup tells the networks that are connected now.
func (a *announcer) startup() {
	var later []network
	for _, n := range a.waiting {
		if !n.IsConnected() {
			later = append(later, n)
			continue
		}
		name := cmp.Or(n.ConnectedClusterName(), n.ConnectedServerId())
		if a.told[name] == nil {
			subject, data := a.process.Startup()
			_ = n.Publish(subject, data)
			a.told[name] = n
		}
	}
	a.waiting = later
}

func (a *announcer) shutdown() {
	for _, n := range a.told {
		if n.IsConnected() { // else it would be sent by a reconnect that does not come
			subject, data := a.process.Shutdown()
			_ = n.Publish(subject, data)
		}
	}
}
