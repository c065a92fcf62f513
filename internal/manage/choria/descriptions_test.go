package choria

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The descriptions in the packages say what the agents do: each action, its answers, and nothing else.
func TestDescriptions(t *testing.T) {
	w := newWorld(t, false)
	c := w.config()
	c.Name = "metrics"
	w.run(c)
	for _, name := range []string{"prometheus_streams", "backplane"} {
		data, err := os.ReadFile(filepath.Join("..", "..", "..", "packaging", "choria", name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		var ddl struct {
			Metadata struct {
				Name    string
				Timeout int
			}
			Actions []struct {
				Action string
				Input  map[string]any
				Output map[string]any
			}
		}
		if err := json.Unmarshal(data, &ddl); err != nil {
			t.Fatal(err)
		}
		ruby, err := os.ReadFile(filepath.Join("..", "..", "..", "packaging", "choria", name+".ddl"))
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range ddl.Actions {
			data := map[string]any{}
			if len(a.Input) > 0 {
				data["level"] = "info"
			}
			got := w.must(call{agent: name, action: a.Action, caller: "me.mcollective", data: data})
			if fields, want := slices.Sorted(maps.Keys(got.Data)), slices.Sorted(maps.Keys(a.Output)); !slices.Equal(fields, want) {
				t.Errorf("%s#%s answers %v, described are %v", name, a.Action, fields, want)
			}
			if !strings.Contains(string(ruby), fmt.Sprintf("action %q,", a.Action)) {
				t.Errorf("%s.ddl lacks %s", name, a.Action)
			}
		}
		inventory := w.must(call{agent: "rpcutil", action: "agent_inventory", caller: "me.mcollective"})
		if !strings.Contains(fmt.Sprint(inventory.Data), name) || ddl.Metadata.Name != name || ddl.Metadata.Timeout != 10 {
			t.Errorf("%s: metadata %+v, inventory %v", name, ddl.Metadata, inventory.Data)
		}
		agent, _ := map[string]func() interface{ ActionNames() []string }{
			"prometheus_streams": func() interface{ ActionNames() []string } {
				return w.server.streamsAgent().(interface{ ActionNames() []string })
			},
			"backplane": func() interface{ ActionNames() []string } {
				return w.server.backplaneAgent().(interface{ ActionNames() []string })
			},
		}[name]
		if len(agent().ActionNames()) != len(ddl.Actions) {
			t.Errorf("%s has %v, described are %d actions", name, agent().ActionNames(), len(ddl.Actions))
		}
	}
}
