package main

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/choria-io/prometheus-streams/internal/manage/lifecycle"
)

// fakeNetwork notes what is published on it.
type fakeNetwork struct {
	cluster, server string

	mu  sync.Mutex
	up  bool
	got []string
}

func (n *fakeNetwork) ConnectedClusterName() string { return n.cluster }
func (n *fakeNetwork) ConnectedServerId() string    { return n.server }

func (n *fakeNetwork) IsConnected() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.up
}

func (n *fakeNetwork) set(up bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.up = up
}

func (n *fakeNetwork) Publish(subject string, _ []byte) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.got = append(n.got, strings.TrimPrefix(subject, lifecycle.Prefix))
	return nil
}

// Each network hears of a process once, whenever it is connected and however many connections lead to it.
func TestAnnouncer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a1, a2 := &fakeNetwork{cluster: "a", server: "1", up: true}, &fakeNetwork{cluster: "a", server: "2"}
		b, never := &fakeNetwork{server: "3"}, &fakeNetwork{server: "4"}
		lost := &fakeNetwork{server: "5", up: true}
		a := &announcer{process: lifecycle.Process{Identity: "DC1", Component: "prometheus_streams_poller"}, told: map[string]network{},
			waiting: []network{a1, a2, b, never, lost}}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- a.run(ctx) }()
		time.Sleep(time.Second)
		a2.set(true)
		b.set(true)
		time.Sleep(time.Second)
		a1.set(false)
		lost.set(false)
		time.Sleep(time.Second)
		a1.set(true)
		time.Sleep(time.Hour)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		both := []string{"startup.prometheus_streams_poller", "shutdown.prometheus_streams_poller"}
		for _, c := range []struct {
			n    *fakeNetwork
			want []string
		}{{a1, both}, {a2, nil}, {b, both}, {never, nil}, {lost, both[:1]}} {
			if !slices.Equal(c.n.got, c.want) {
				t.Errorf("server %s heard %v, want %v", c.n.server, c.n.got, c.want)
			}
		}
	})
}
