package choria

import (
	"context"

	"github.com/choria-io/go-choria/inter"
	"github.com/choria-io/go-choria/providers/agent/mcorpc"
	"github.com/choria-io/go-choria/server/agents"

	"github.com/choria-io/prometheus-streams/internal/manage"
)

// The names of the agents, and of the way requests come, in logs and metrics.
const (
	agentName     = "prometheus_streams"
	backplaneName = "backplane"
	via           = "choria"
)

// state is the answer of every action of the agent prometheus_streams.
type state struct {
	Mode    string `json:"mode"`
	Paused  bool   `json:"paused"`
	Version string `json:"version"`
}

func stateOf(s manage.Status) state { return state{s.Mode, s.Paused, s.Version} }

// health is what the action of that name adds.
type health struct {
	state
	Ready  bool   `json:"ready"`
	Reason string `json:"reason"`
}

// change is one of the breaker's.
type change func(manage.Request) (manage.Status, error)

// metadata describes an agent.
func (s *Server) metadata(name, description string) *agents.Metadata {
	return &agents.Metadata{
		Name: name, Description: description, Author: "R.I.Pienaar <rip@devco.net>", License: "Apache-2.0",
		Version: s.breaker.Status().Version, URL: "https://github.com/choria-io/prometheus-streams", Timeout: 10,
	}
}

// streamsAgent is the agent prometheus_streams.
func (s *Server) streamsAgent() agents.Agent {
	md := s.metadata(agentName, "Prometheus Streams")
	a := mcorpc.New(md.Name, md, s.fw, s.fw.Logger("agent"))
	now := func(manage.Request) (manage.Status, error) { return s.breaker.Status(), nil }
	for name, do := range map[string]change{
		"info": now, "ping": now, "switch": s.breaker.Switch, "pause": s.breaker.Pause, "resume": s.breaker.Resume,
	} {
		a.MustRegisterAction(name, action(do, func(st manage.Status) any { return stateOf(st) }))
	}
	a.MustRegisterAction("health", func(_ context.Context, _ *mcorpc.Request, reply *mcorpc.Reply, _ *mcorpc.Agent, _ inter.ConnectorInfo) {
		h := s.breaker.Health()
		reply.Data = health{stateOf(h.Status), h.Ready, h.Reason}
	})
	a.MustRegisterAction("loglevel", func(ctx context.Context, r *mcorpc.Request, reply *mcorpc.Reply, a *mcorpc.Agent, c inter.ConnectorInfo) {
		in := struct {
			Level string `json:"level" validate:"enum=debug,info,warn,error"`
		}{}
		if !mcorpc.ParseRequestData(&in, r, reply) {
			return
		}
		set := func(from manage.Request) (manage.Status, error) { return s.breaker.SetLevel(from, in.Level) }
		action(set, func(st manage.Status) any { return stateOf(st) })(ctx, r, reply, a, c)
	})
	return a
}

// backplaneAgent is the agent that version 1.0 had, with the answers that it gave.
func (s *Server) backplaneAgent() agents.Agent {
	md := s.metadata(backplaneName, "Choria Management Backplane")
	a := mcorpc.New(md.Name, md, s.fw, s.fw.Logger("agent"))
	paused := func(st manage.Status) any { return map[string]any{"paused": st.Paused} }
	for name, do := range map[string]change{"pause": s.breaker.Pause, "resume": s.breaker.Resume, "flip": s.breaker.Switch} {
		a.MustRegisterAction(name, action(do, paused))
	}
	now := func(manage.Request) (manage.Status, error) { return s.breaker.Status(), nil }
	a.MustRegisterAction("ping", action(now, func(st manage.Status) any { return map[string]any{"version": st.Version} }))
	a.MustRegisterAction("info", action(now, func(st manage.Status) any {
		return map[string]any{
			"backplane_version": st.Version, "version": st.Version, "paused": st.Paused, "facts": s.shown(),
			"healthy": s.breaker.Health().Ready, "loglevel": "unknown",
			"healthcheck_feature": false, "pause_feature": true, "shutdown_feature": false, "facts_feature": true, "loglevel_feature": false,
		}
	}))
	return a
}

// action makes an action of what the breaker does. A change that is in effect and not remembered is answered with the new
// state and what is wrong.
func action(do change, show func(manage.Status) any) mcorpc.Action {
	return func(_ context.Context, r *mcorpc.Request, reply *mcorpc.Reply, _ *mcorpc.Agent, _ inter.ConnectorInfo) {
		status, err := do(manage.Request{Caller: r.CallerID, Via: via})
		if err != nil {
			reply.Statuscode, reply.Statusmsg = mcorpc.Aborted, err.Error()
		}
		reply.Data = show(status)
	}
}
