package target

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
}

func TestFileDiscovery(t *testing.T) {
	name := filepath.Join(t.TempDir(), "targets.json")
	write(t, name, `[{"targets": ["a:1"], "labels": {"__meta_x": "1"}}]`)
	w := newWorld(t)
	block := "scrape_configs:\n- {job_name: s, static_configs: [{targets: ['s:1']}]}\n- job_name: f\n  file_sd_configs: [{files: ['" + name + "']}]\n"
	w.apply(block)
	if got := w.urls(); got != "s:1/metrics" {
		t.Errorf("before Run: %q", got)
	}
	w.run()
	w.await("a:1/metrics s:1/metrics")
	write(t, name, `[{"targets": ["a:1", "b:2"]}]`)
	w.await("a:1/metrics b:2/metrics s:1/metrics")
	write(t, name, `[{"targets": ["b:2"]}]`)
	w.await("b:2/metrics s:1/metrics")

	// Another configuration of the same discovery: what it found goes on until it is found anew.
	w.mu.Lock()
	seen, before := map[string]bool{}, w.updates
	update := w.m.update
	w.m.update = func(all []*Target) { update(all); seen[w.urls()] = true }
	w.mu.Unlock()
	w.apply(strings.Replace(block, "files: [", "refresh_interval: 7m, files: [", 1))
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		w.mu.Lock()
		n := w.updates
		w.mu.Unlock()
		if n >= before+3 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("no updates after a reload")
		}
		if n == before+1 {
			write(t, name, `[{"targets": ["b:2"]}]`)
			time.Sleep(300 * time.Millisecond)
		}
	}
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	if len(seen) != 1 || !seen["b:2/metrics s:1/metrics"] {
		t.Errorf("a reload told %v", seen)
	}
}

func TestDiscoveryEndsWithItsConfiguration(t *testing.T) {
	name := filepath.Join(t.TempDir(), "targets.json")
	write(t, name, `[{"targets": ["a:1"]}]`)
	w := newWorld(t)
	w.run()
	block := "scrape_configs:\n- job_name: f\n  file_sd_configs: [{files: ['" + name + "']}]\n"
	for range 2 { // it can begin again
		w.apply(block)
		w.await("a:1/metrics")
		w.apply("scrape_configs: [{job_name: f, static_configs: [{targets: ['s:1']}]}]")
		if got := w.urls(); got != "s:1/metrics" {
			t.Errorf("targets %q", got)
		}
		w.m.mu.Lock()
		if w.m.finder != nil {
			t.Error("discovery runs without anything to discover")
		}
		w.m.mu.Unlock()
	}
}

// fake is a server of one kind of discovery, with a list that changes.
type fake struct {
	*httptest.Server
	mu   sync.Mutex
	list []string
	at   int // rises with each change
}

func newFake(t *testing.T, serve func(f *fake, w http.ResponseWriter, r *http.Request)) *fake {
	f := &fake{at: 1}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { serve(f, w, r) }))
	t.Cleanup(func() {
		f.CloseClientConnections()
		f.Close()
	})
	return f
}

func (f *fake) set(list ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = list
	f.at++
}

func (f *fake) get() ([]string, int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.list), f.at
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// follow applies a configuration and changes what the fake lists.
func follow(t *testing.T, f *fake, block string) {
	t.Helper()
	w := newWorld(t)
	f.set("a:1")
	w.run()
	w.apply("scrape_configs:\n- job_name: f\n  " + strings.ReplaceAll(block, "ADDRESS", f.Listener.Addr().String()) + "\n")
	w.await("a:1/metrics")
	f.set("a:1", "b:2")
	w.await("a:1/metrics b:2/metrics")
	f.set("b:2")
	w.await("b:2/metrics")
	f.set()
	w.await("")
}

func TestHTTPDiscovery(t *testing.T) {
	f := newFake(t, func(f *fake, w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "u" || password != "p" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		list, _ := f.get()
		answer(w, []any{map[string]any{"targets": append([]string{}, list...)}})
	})
	follow(t, f, "http_sd_configs: [{url: 'http://ADDRESS/', refresh_interval: 200ms, basic_auth: {username: u, password: p}}]")
}

func TestPuppetDBDiscovery(t *testing.T) {
	f := newFake(t, func(f *fake, w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
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
	follow(t, f, `puppetdb_sd_configs: [{url: 'http://ADDRESS', query: 'resources { type = "Class" }', include_parameters: true, refresh_interval: 200ms}]
  relabel_configs: [{source_labels: [__meta_puppetdb_parameter_address], target_label: __address__}]`)
}

func TestConsulDiscovery(t *testing.T) {
	f := newFake(t, func(f *fake, w http.ResponseWriter, r *http.Request) {
		list, at := f.get()
		if r.Header.Get("X-Consul-Token") != "hunter2" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		for range 100 { // a blocking query
			if r.URL.Query().Get("index") != fmt.Sprint(at) || r.Context().Err() != nil {
				break
			}
			time.Sleep(20 * time.Millisecond)
			list, at = f.get()
		}
		w.Header().Set("X-Consul-Index", fmt.Sprint(at))
		switch r.URL.Path {
		case "/v1/agent/self":
			answer(w, map[string]any{"Config": map[string]any{"Datacenter": "dc1"}})
		case "/v1/catalog/services":
			answer(w, map[string][]string{"node": {"x"}})
		case "/v1/health/service/node":
			out := []any{}
			for i, address := range list {
				host, port, _ := strings.Cut(address, ":")
				var n int
				_, _ = fmt.Sscan(port, &n)
				out = append(out, map[string]any{
					"Node":    map[string]any{"ID": fmt.Sprint(i), "Node": host, "Address": host, "Datacenter": "dc1"},
					"Service": map[string]any{"ID": address, "Service": "node", "Address": host, "Port": n, "Tags": []string{"x"}},
					"Checks":  []any{},
				})
			}
			answer(w, out)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
	follow(t, f, "consul_sd_configs: [{server: 'ADDRESS', token: hunter2, refresh_interval: 200ms}]")
}

func TestKubernetesDiscovery(t *testing.T) {
	node := func(address string, version int) map[string]any {
		host, _, _ := strings.Cut(address, ":")
		return map[string]any{"apiVersion": "v1", "kind": "Node",
			"metadata": map[string]any{"name": host, "uid": host, "resourceVersion": fmt.Sprint(version), "annotations": map[string]string{"address": address}},
			"status":   map[string]any{"addresses": []any{map[string]string{"type": "InternalIP", "address": host}}}}
	}
	f := newFake(t, func(f *fake, w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/nodes" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		list, at := f.get()
		query := r.URL.Query()
		if query.Get("watch") == "" {
			items := []any{}
			for _, a := range list {
				items = append(items, node(a, at))
			}
			answer(w, map[string]any{"apiVersion": "v1", "kind": "NodeList", "metadata": map[string]string{"resourceVersion": fmt.Sprint(at)}, "items": items})
			return
		}
		w.Header().Set("Content-Type", "application/json")
		event := func(kind string, object any) {
			_ = json.NewEncoder(w).Encode(map[string]any{"type": kind, "object": object})
			w.(http.Flusher).Flush()
		}
		shown := list
		if query.Get("sendInitialEvents") == "true" {
			for _, a := range list {
				event("ADDED", node(a, at))
			}
			event("BOOKMARK", map[string]any{"apiVersion": "v1", "kind": "Node", "metadata": map[string]any{"resourceVersion": fmt.Sprint(at),
				"annotations": map[string]string{"k8s.io/initial-events-end": "true"}}})
		}
		for r.Context().Err() == nil {
			time.Sleep(20 * time.Millisecond)
			now, at := f.get()
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
	})
	follow(t, f, `kubernetes_sd_configs: [{role: node, api_server: 'http://ADDRESS'}]
  relabel_configs: [{source_labels: [__meta_kubernetes_node_annotation_address], target_label: __address__}]`)
}
