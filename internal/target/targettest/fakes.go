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

	mu    sync.Mutex
	lists [][]string // what was set, in turn
}

// Address is host and port of the server.
func (f *Fake) Address() string { return f.Listener.Addr().String() }

// Set changes the list.
func (f *Fake) Set(list ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lists = append(f.lists, list)
}

// get is the list with its number, which rises with each change.
func (f *Fake) get() (list []string, at int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at = len(f.lists) - 1
	return slices.Clone(f.lists[at]), at
}

// was is the list that had a number.
func (f *Fake) was(at int) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if at < 0 || at >= len(f.lists) {
		return nil
	}
	return slices.Clone(f.lists[at])
}

func start(t testing.TB, listen string, serve func(f *Fake, w http.ResponseWriter, r *http.Request)) *Fake {
	t.Helper()
	l, err := net.Listen("tcp", listen)
	if err != nil {
		t.Fatal(err)
	}
	f := &Fake{lists: [][]string{nil, nil}} // 0 means any to those who watch
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
