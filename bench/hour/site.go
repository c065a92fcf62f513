// Package hour fills a spool as a poller does whose hub is away for an hour, in simulated time, and measures what becomes of
// it: what it takes on disk and in memory, how fast it goes to a hub that is back, and what it does to a start. See "make hour".
package hour

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/bench/exporter"
	"github.com/choria-io/prometheus-streams/internal/exposition"
	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/poller"
	"github.com/choria-io/prometheus-streams/internal/scrape"
	"github.com/choria-io/prometheus-streams/internal/spool"
	"github.com/choria-io/prometheus-streams/internal/stream"
	"github.com/choria-io/prometheus-streams/internal/target"
)

// identity is the publisher of all of it.
const identity = "site"

// interval is that of all targets.
const interval = 15 * time.Second

// load is how many targets there are and how many series each has.
type load struct{ targets, series int }

// answers is an HTTP client's way to a target that is in this process.
type answers struct {
	pages *exporter.Pages
}

// RoundTrip answers with the next page.
func (a answers) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{
		Status: "200 OK", StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
		Header: http.Header{"Content-Type": {"text/plain; version=0.0.4; charset=utf-8"}},
		Body:   io.NopCloser(bytes.NewReader(a.pages.Next())),
	}, nil
}

// scrapers makes the scrapers of a load: the product's, but for the network.
type scrapers struct {
	load
	schemas *exposition.Schemas
	buffers *scrape.Buffers
}

func newScrapers(l load) *scrapers {
	return &scrapers{load: l, schemas: exposition.NewPackedSchemas(), buffers: &scrape.Buffers{}}
}

// instance names a target.
func instance(index int) string { return fmt.Sprintf("node-%d", index) }

func (s *scrapers) target(index int) *target.Target {
	return &target.Target{
		Labels: labels.FromStrings("instance", instance(index), "job", "load"), Pool: "load",
		URL: "http://" + instance(index) + "/metrics", Interval: interval, Timeout: interval,
	}
}

// scraper is that of the target of an index, from its first page on.
func (s *scrapers) scraper(index int) (*scrape.Scraper, error) {
	return scrape.New(s.target(index), scrape.Options{
		Client: &http.Client{Transport: answers{exporter.NewPages(index, s.series)}}, Schemas: s.schemas, Buffers: s.buffers,
	})
}

// bundles puts a poller's bundles into a spool under the subjects that they have in the product.
type bundles struct {
	disk     *spool.Disk
	subjects stream.Subjects
}

// Append implements poller.Spool.
func (b bundles) Append(n poller.Bundle) error {
	r := spool.Record{
		Subject: b.subjects.Frames(identity, "live"), Message: n.Message, Frames: n.Frames, Samples: n.Samples,
	}
	var missing []spool.Schema
	for _, s := range n.Schemas {
		r.Schemas = append(r.Schemas, s.ID.String())
		for m := s.Stored(); m != nil; m = m.Parent {
			given := spool.Schema{ID: m.ID.String(), Subject: b.subjects.Schema(identity, m.ID), Message: m.Message}
			if m.Parent != nil {
				given.Parent = m.Parent.ID.String()
			}
			if parent, held := b.disk.Parent(given.ID); !held || parent != given.Parent {
				missing = append(missing, given)
			}
		}
	}
	return b.disk.Append(r, missing...)
}

// outage is a poller that scrapes a load into a spool on disk. In a bubble of testing/synctest it has simulated time.
type outage struct {
	disk *spool.Disk
	stop context.CancelFunc
	done chan error
}

// begin lets the poller scrape.
func begin(dir string, l load) (*outage, error) {
	disk, err := spool.OpenDisk(spool.DiskOptions{Directory: dir, MaxBytes: 8 << 30, SyncEvery: time.Second})
	if err != nil {
		return nil, err
	}
	s := newScrapers(l)
	indices := map[string]int{}
	var targets []*target.Target
	for i := range l.targets {
		targets = append(targets, s.target(i))
		indices[instance(i)] = i
	}
	p := poller.New(poller.Config{
		Publisher: identity, Spool: bundles{disk, stream.Subjects{Topic: "prometheus"}}, Seed: target.Seed(identity),
		NewScraper: func(t *target.Target) (poller.Scraper, error) { return s.scraper(indices[t.Instance()]) },
		Live: func(ids []frame.SchemaID) {
			list := make([]string, len(ids))
			for i, id := range ids {
				list[i] = id.String()
			}
			disk.SetLive(list)
		},
	})
	p.Update(targets)
	ctx, stop := context.WithCancel(context.Background())
	o := &outage{disk: disk, stop: stop, done: make(chan error, 1)}
	go func() { o.done <- p.Run(ctx) }()
	return o, nil
}

// end stops the poller and closes the spool. It returns how much is in it.
func (o *outage) end() (frames, samples int, err error) {
	o.stop()
	if err := <-o.done; err != nil {
		return 0, 0, err
	}
	_, frames, samples = o.disk.Held()
	return frames, samples, o.disk.Release()
}
