package harness

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Cluster is several nats-servers that keep copies of each other's streams.
type Cluster struct {
	Nodes []*NATS
	// URL has the addresses of all of them.
	URL string

	islands []*Island // those that they are on, if they can be parted
}

// StartCluster starts n servers.
func StartCluster(t testing.TB, ports *Ports, n int) *Cluster {
	t.Helper()
	c := &Cluster{}
	var urls, routes []string
	var cluster []int
	for range n {
		port := ports.Next(t)
		cluster = append(cluster, port)
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", port))
	}
	for i := range n {
		c.Nodes = append(c.Nodes, StartNATS(t, ports.Next(t), fmt.Sprintf("server_name: %s\ncluster { name: hub, listen: \"127.0.0.1:%d\", routes: [%s] }",
			nodeName(i), cluster[i], strings.Join(routes, ", "))))
		urls = append(urls, c.Nodes[i].URL)
	}
	c.URL = strings.Join(urls, ",")
	return c
}

// StartParted starts three servers that can be parted from each other, each on an island of its own. It needs root.
func StartParted(t testing.TB, ports *Ports) *Cluster {
	t.Helper()
	const n = 3
	c := &Cluster{}
	for range n {
		c.islands = append(c.islands, NewIsland(t, 1))
	}
	port, cluster := ports.Next(t), ports.Next(t)
	routes := make([][]string, n)
	for i, island := range c.islands {
		for j := range i {
			here, there := island.connect(t, c.islands[j])
			routes[i] = append(routes[i], fmt.Sprintf("nats://%s:%d", there, cluster))
			routes[j] = append(routes[j], fmt.Sprintf("nats://%s:%d", here, cluster))
		}
	}
	var urls []string
	for i, island := range c.islands {
		c.Nodes = append(c.Nodes, island.startNATS(t, island.Address(0), port, fmt.Sprintf(
			"server_name: %s\ncluster { name: hub, listen: \"0.0.0.0:%d\", no_advertise: true, routes: [%s] }", nodeName(i), cluster, strings.Join(routes[i], ", "))))
		urls = append(urls, c.Nodes[i].URL)
	}
	c.URL = strings.Join(urls, ",")
	return c
}

// Part lets a node of StartParted lose all that goes between it and the other nodes, not what goes to and from clients.
func (c *Cluster) Part(t testing.TB, node int) {
	t.Helper()
	for link := range c.islands[node].links[1:] {
		c.islands[node].Down(t, link+1)
	}
}

// Join undoes Part.
func (c *Cluster) Join(t testing.TB, node int) {
	t.Helper()
	for link := range c.islands[node].links[1:] {
		c.islands[node].Up(t, link+1)
	}
}

func nodeName(i int) string { return fmt.Sprintf("n%d", i) }

// JetStream opens a connection for JetStream to any of the servers.
func (c *Cluster) JetStream(t testing.TB) jetstream.JetStream {
	t.Helper()
	conn, err := nats.Connect(c.URL, nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
	if err != nil {
		t.Fatalf("connect to %s: %v", c.URL, err)
	}
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// Leader waits until a stream has a leader and all its copies are up to date, and tells which node leads.
func (c *Cluster) Leader(t testing.TB, js jetstream.JetStream, stream string) int {
	t.Helper()
	leader := -1
	Wait(t, time.Minute, "stream "+stream+" has a leader and "+fmt.Sprint(len(c.Nodes)-1)+" current followers", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		s, err := js.Stream(ctx, stream)
		if err != nil {
			return err
		}
		info := s.CachedInfo().Cluster
		if info == nil || info.Leader == "" || len(info.Replicas) != len(c.Nodes)-1 {
			return fmt.Errorf("cluster of the stream: %+v", info)
		}
		for _, r := range info.Replicas {
			if !r.Current || r.Offline {
				return fmt.Errorf("copy %s is not current", r.Name)
			}
		}
		for i := range c.Nodes {
			if nodeName(i) == info.Leader {
				leader = i
			}
		}
		return nil
	})
	return leader
}
