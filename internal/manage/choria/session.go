package choria

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/choria-io/go-choria/providers/agent/mcorpc/golang/choriautil"
	"github.com/choria-io/go-choria/providers/agent/mcorpc/golang/discovery"
	"github.com/choria-io/go-choria/providers/agent/mcorpc/golang/rpcutil"
	"github.com/choria-io/go-choria/server"
	"github.com/choria-io/go-choria/server/agents"
)

// Component is the name of a process in lifecycle events.
func Component(mode string) string { return "prometheus_streams_" + mode }

// session serves from a first connection until ctx ends or something is wrong that a new session may not have. go-choria
// reconnects within a session.
func (s *Server) session(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g := &guard{Framework: s.fw, access: s.access}
	if s.cfg.TLS != nil {
		g.authorities = s.cfg.TLS.ca()
	}
	instance, err := server.NewInstance(g)
	if err != nil {
		return err
	}
	g.watch(instance)
	instance.SetComponent(Component(s.breaker.Status().Mode))
	var wg sync.WaitGroup
	wg.Add(1)
	if err := instance.Run(ctx, &wg); err != nil { // blocks until it is connected
		return err
	}
	if err := s.register(ctx, instance); err != nil {
		cancel()
		s.end(instance, &wg)
		return err
	}
	s.log.Info("connected to the Choria network", "url", instance.ConnectedServer())
	<-ctx.Done()
	s.end(instance, &wg)
	return nil
}

// end waits until the instance has said goodbye. One whose broker does not answer waits for ten seconds; its connection is
// cut before.
func (s *Server) end(instance *server.Instance, wg *sync.WaitGroup) {
	nc := instance.Connector().Nats()
	if !nc.IsConnected() {
		nc.Close()
	}
	cut := time.AfterFunc(closeAfter, nc.Close)
	defer cut.Stop()
	wg.Wait()
}

// register adds the agents.
func (s *Server) register(ctx context.Context, instance *server.Instance) error {
	m := instance.AgentManager()
	d, err := discovery.New(m)
	if err != nil {
		return err
	}
	r, err := rpcutil.New(m)
	if err != nil {
		return err
	}
	u, err := choriautil.New(m)
	if err != nil {
		return err
	}
	all := []agents.Agent{d, r, u, s.streamsAgent()}
	if s.cfg.Name != "" {
		all = append(all, s.backplaneAgent())
	}
	for _, a := range all {
		gated := &gate{Agent: a, access: s.access, log: s.log}
		if err := m.RegisterAgent(ctx, a.Name(), gated, instance.Connector()); err != nil {
			return fmt.Errorf("agent %s: %w", a.Name(), err)
		}
	}
	return nil
}
