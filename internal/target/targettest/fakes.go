// Package targettest has what service discovery asks, as far as it asks it: small servers whose lists change.
package targettest

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Token is what Consul wants, User and Password what the server of http_sd_configs wants.
const (
	Token    = "hunter2"
	User     = "u"
	Password = "p"
)

// step is how often what waits for a change looks.
const step = 20 * time.Millisecond

// Fake is a server of one kind of discovery, with a list of addresses that changes. It ends with the test.
type Fake struct {
	*httptest.Server

	mu   sync.Mutex
	list []string
	at   int // rises with each change
}

// Address is host and port of the server.
func (f *Fake) Address() string { return f.Listener.Addr().String() }

// Set changes the list.
func (f *Fake) Set(list ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = list
	f.at++
}

func (f *Fake) get() ([]string, int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.list), f.at
}

func start(t testing.TB, listen string, serve func(f *Fake, w http.ResponseWriter, r *http.Request)) *Fake {
	t.Helper()
	l, err := net.Listen("tcp", listen)
	if err != nil {
		t.Fatal(err)
	}
	f := &Fake{at: 1}
	f.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { serve(f, w, r) }))
	_ = f.Listener.Close()
	f.Listener = l
	f.Start()
	t.Cleanup(func() {
		f.CloseClientConnections()
		f.Close()
	})
	return f
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// HTTP serves http_sd_configs to who gives User and Password.
func HTTP(t testing.TB, listen string) *Fake {
	return start(t, listen, func(f *Fake, w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != User || password != Password {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		list, _ := f.get()
		answer(w, []any{map[string]any{"targets": append([]string{}, list...)}})
	})
}

// PuppetDB answers queries of resources. The address is the parameter "address" of each.
func PuppetDB(t testing.TB, listen string) *Fake {
	return start(t, listen, func(f *Fake, w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		if r.Method != http.MethodPost || r.URL.Path != "/pdb/query/v4" || !strings.Contains(string(body), "resources") {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		list, _ := f.get()
		out := []any{}
		for _, address := range list {
			out = append(out, map[string]any{"certname": strings.Split(address, ":")[0], "resource": address, "type": "Class", "title": "Exporter",
				"exported": false, "tags": []string{"x"}, "file": "/a.pp", "environment": "production", "parameters": map[string]any{"address": address}})
		}
		answer(w, out)
	})
}

// Consul has one service, node, whose instances these are. It wants Token.
func Consul(t testing.TB, listen string) *Fake {
	return start(t, listen, func(f *Fake, w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Consul-Token") != Token {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		list, at := f.get()
		for range 100 { // a blocking query
			if r.URL.Query().Get("index") != fmt.Sprint(at) || r.Context().Err() != nil {
				break
			}
			time.Sleep(step)
			list, at = f.get()
		}
		w.Header().Set("X-Consul-Index", fmt.Sprint(at))
		switch path := strings.TrimPrefix(r.URL.Path, "/consul"); path {
		case "/v1/agent/self":
			answer(w, map[string]any{"Config": map[string]any{"Datacenter": "dc1"}})
		case "/v1/catalog/services":
			answer(w, map[string][]string{"node": {"x"}})
		case "/v1/health/service/node":
			answer(w, instances(list))
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
}

func instances(list []string) []any {
	out := []any{}
	for i, address := range list {
		host, port, _ := strings.Cut(address, ":")
		var n int
		_, _ = fmt.Sscan(port, &n)
		out = append(out, map[string]any{
			"Node":    map[string]any{"ID": fmt.Sprint(i), "Node": host, "Address": host, "Datacenter": "dc1", "Meta": map[string]string{"rack": "1"}},
			"Service": map[string]any{"ID": address, "Service": "node", "Address": host, "Port": n, "Tags": []string{"x"}, "Meta": map[string]string{"a": "b"}},
			"Checks":  []any{},
		})
	}
	return out
}

// Kubernetes has nodes; the address is their annotation "address". Of everything else it has none.
func Kubernetes(t testing.TB, listen string) *Fake {
	return start(t, listen, func(f *Fake, w http.ResponseWriter, r *http.Request) {
		list := func() ([]string, int) { return f.get() }
		if r.URL.Path != "/api/v1/nodes" {
			list = func() ([]string, int) { return nil, 1 }
		}
		if r.URL.Query().Get("watch") == "" {
			shown, at := list()
			items := []any{}
			for _, a := range shown {
				items = append(items, node(a, at))
			}
			answer(w, map[string]any{"apiVersion": "v1", "kind": kindOf(r.URL.Path) + "List",
				"metadata": map[string]string{"resourceVersion": fmt.Sprint(at)}, "items": items})
			return
		}
		watch(w, r, list)
	})
}

func kindOf(path string) string {
	name := path[strings.LastIndexByte(path, '/')+1:]
	return map[string]string{"nodes": "Node", "pods": "Pod", "services": "Service", "namespaces": "Namespace"}[name]
}

func node(address string, version int) map[string]any {
	host, port, _ := strings.Cut(address, ":")
	name := host + "-" + port
	return map[string]any{"apiVersion": "v1", "kind": "Node",
		"metadata": map[string]any{"name": name, "uid": name, "resourceVersion": fmt.Sprint(version), "annotations": map[string]string{"address": address}},
		"status":   map[string]any{"addresses": []any{map[string]string{"type": "InternalIP", "address": host}}}}
}

// watch tells of changes as they come.
func watch(w http.ResponseWriter, r *http.Request, list func() ([]string, int)) {
	w.Header().Set("Content-Type", "application/json")
	event := func(kind string, object any) {
		_ = json.NewEncoder(w).Encode(map[string]any{"type": kind, "object": object})
		w.(http.Flusher).Flush()
	}
	shown, at := list()
	if r.URL.Query().Get("sendInitialEvents") == "true" {
		for _, a := range shown {
			event("ADDED", node(a, at))
		}
		event("BOOKMARK", map[string]any{"apiVersion": "v1", "kind": kindOf(r.URL.Path), "metadata": map[string]any{"resourceVersion": fmt.Sprint(at),
			"annotations": map[string]string{"k8s.io/initial-events-end": "true"}}})
	}
	for r.Context().Err() == nil {
		time.Sleep(step)
		now, at := list()
		for _, a := range now {
			if !slices.Contains(shown, a) {
				event("ADDED", node(a, at))
			}
		}
		for _, a := range shown {
			if !slices.Contains(now, a) {
				event("DELETED", node(a, at))
			}
		}
		shown = now
	}
}
