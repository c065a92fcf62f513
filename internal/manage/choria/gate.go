package choria

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"regexp"
	"slices"

	"github.com/choria-io/go-choria/inter"
	"github.com/choria-io/go-choria/protocol"
	"github.com/choria-io/go-choria/providers/agent/mcorpc"
	"github.com/choria-io/go-choria/server/agents"
)

// Auth says who may do what. A name of letters, digits, dots, dashes and underscores is the name in a certificate; anything
// else is a regular expression that matches anywhere in such a name, as in version 1.0. Who is in neither list may nothing.
type Auth struct {
	// Insecure lets every caller do everything.
	Insecure bool
	// Full may do everything, ReadOnly may look.
	Full, ReadOnly []string
}

// access answers who may do what.
type access struct {
	open           bool
	full, readOnly []*regexp.Regexp
}

func newAccess(a *Auth) (access, error) {
	if a == nil || a.Insecure {
		return access{open: true}, nil
	}
	full, err := patterns("full", a.Full)
	if err != nil {
		return access{}, err
	}
	readOnly, err := patterns("read_only", a.ReadOnly)
	return access{full: full, readOnly: readOnly}, err
}

func patterns(key string, list []string) ([]*regexp.Regexp, error) {
	plain := regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)
	var out []*regexp.Regexp
	for _, entry := range list {
		if plain.MatchString(entry) {
			entry = "^" + regexp.QuoteMeta(entry) + "$"
		}
		p, err := regexp.Compile(entry)
		if err != nil {
			return nil, fmt.Errorf("auth: %s: %w", key, err)
		}
		out = append(out, p)
	}
	return out, nil
}

// allows tells whether a caller may look, or change things.
func (a *access) allows(id string, change bool) bool {
	if a.open {
		return true
	}
	name := caller(id)
	matches := func(p *regexp.Regexp) bool { return p.MatchString(name) }
	return name != "" && (slices.ContainsFunc(a.full, matches) || !change && slices.ContainsFunc(a.readOnly, matches))
}

// looks are the actions that change nothing. An action that is not here needs all rights.
func looks(agent, action string) bool {
	var list []string
	switch agent {
	case agentName:
		list = []string{"info", "ping", "health"}
	case backplaneName:
		list = []string{"info", "ping"}
	case "rpcutil":
		list = []string{"ping", "get_fact", "get_facts", "inventory", "agent_inventory", "collective_info", "daemon_stats", "get_data",
			"get_config_item"}
	case "choria_util":
		list = []string{"info", "machine_states", "machine_state"}
	}
	return slices.Contains(list, action)
}

// gate is an agent that only those reach who may, and whose panics end the request alone.
type gate struct {
	agents.Agent
	access access
	log    *slog.Logger
}

// HandleMessage implements agents.Agent.
func (g *gate) HandleMessage(ctx context.Context, m inter.Message, r protocol.Request, c inter.ConnectorInfo, out chan *agents.AgentReply) {
	answer := func(reply *agents.AgentReply) {
		select {
		case out <- reply:
		case <-ctx.Done(): // nobody waits any more
		}
	}
	defer func() {
		if p := recover(); p != nil {
			answer(&agents.AgentReply{Message: m, Request: r, Error: fmt.Errorf("agent %s: %v", g.Name(), p)})
		}
	}()
	if g.Name() == "discovery" { // it has a text of its own, and guard let this caller look
		g.Agent.HandleMessage(ctx, m, r, c, out)
		return
	}
	request := mcorpc.Request{}
	if err := json.Unmarshal(m.Payload(), &request); err != nil {
		answer(refusal(m, r, mcorpc.InvalidData, "Could not process request: "+err.Error()))
		return
	}
	if g.access.allows(r.CallerID(), !looks(g.Name(), request.Action)) {
		g.Agent.HandleMessage(ctx, m, r, c, out)
		return
	}
	g.log.Warn("refused on the Choria network", "from", fmt.Sprintf("%.100s", r.CallerID()), "subject", fmt.Sprintf("%s#%.100s", g.Name(), request.Action),
		"reason", "management.auth")
	answer(refusal(m, r, mcorpc.Aborted, "You are not authorized to call this agent or action"))
}

// refusal is the answer to a request that reaches no agent.
func refusal(m inter.Message, r protocol.Request, code mcorpc.StatusCode, text string) *agents.AgentReply {
	body, err := json.Marshal(mcorpc.Reply{Statuscode: code, Statusmsg: text, Data: json.RawMessage("{}")})
	return &agents.AgentReply{Message: m, Request: r, Body: body, Error: err}
}
