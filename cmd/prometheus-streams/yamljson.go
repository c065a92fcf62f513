//go:build !nochoria

package main

import (
	"math"

	"go.yaml.in/yaml/v3"
)

// jsonOf makes of YAML what JSON can show: keys are text, and so are numbers that JSON does not have.
func jsonOf(text string) any {
	var root yaml.Node
	if err := yaml.Unmarshal([]byte(text), &root); err != nil || len(root.Content) == 0 {
		return nil
	}
	return plain(root.Content[0])
}

func plain(n *yaml.Node) any {
	switch n.Kind {
	case yaml.MappingNode:
		out := make(map[string]any, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			out[n.Content[i].Value] = plain(n.Content[i+1])
		}
		return out
	case yaml.SequenceNode:
		out := make([]any, len(n.Content))
		for i, item := range n.Content {
			out[i] = plain(item)
		}
		return out
	case yaml.AliasNode:
		return plain(n.Alias)
	}
	var v any
	if err := n.Decode(&v); err != nil {
		return n.Value
	}
	switch number := v.(type) {
	case nil, bool, int, int64, uint64:
		return v
	case float64:
		if !math.IsNaN(number) && !math.IsInf(number, 0) {
			return v
		}
	}
	return n.Value
}
