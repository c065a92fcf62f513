package e2e

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

const (
	textFormat  = "text/plain; version=0.0.4"
	protoFormat = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
)

// millions is a page, compressed, of 10 million series in less than the default body_size_limit.
var millions = sync.OnceValue(func() []byte {
	var packed bytes.Buffer
	z, _ := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
	out := bufio.NewWriterSize(z, 64<<10)
	line := make([]byte, 0, 16)
	for i := range 10_000_000 {
		line = append(strconv.AppendInt(append(line[:0], 's'), int64(i), 10), " 1\n"...)
		_, _ = out.Write(line)
	}
	_ = out.Flush()
	_ = z.Close()
	return packed.Bytes()
})

// hostile answers in ways that nobody wants, by path.
func hostile(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", textFormat)
	out := bufio.NewWriterSize(w, 64<<10)
	defer out.Flush()
	switch r.URL.Path {
	case "/endless":
		for i := 0; ; i++ {
			if _, err := fmt.Fprintf(out, "endless{i=\"%d\"} 1\n", i); err != nil {
				return
			}
		}
	case "/drip":
		for r.Context().Err() == nil {
			fmt.Fprintln(w, "drip 1")
			w.(http.Flusher).Flush()
			time.Sleep(100 * time.Millisecond)
		}
	case "/bomb":
		w.Header().Set("Content-Encoding", "gzip")
		z, _ := gzip.NewWriterLevel(out, gzip.BestSpeed)
		line := bytes.Repeat([]byte("bomb 1\n"), 10_000)
		for range 100_000 {
			if _, err := z.Write(line); err != nil {
				return
			}
		}
		z.Close()
	case "/millions":
		w.Header().Set("Content-Encoding", "gzip")
		out.Write(millions())
	case "/many":
		for i := range 200_000 {
			fmt.Fprintf(out, "many{i=\"%d\"} 1\n", i)
		}
	case "/utf8":
		io.WriteString(out, "bad{l=\"\xff\xfe\"} 1\n")
	case "/label":
		fmt.Fprintf(out, "giant{l=\"%s\"} 1\n", strings.Repeat("x", 1<<20))
	case "/name":
		fmt.Fprintf(out, "giant{%s=\"x\"} 1\n", strings.Repeat("x", 1<<20))
	case "/labels":
		out.WriteString("wide{")
		for i := range 10_000 {
			fmt.Fprintf(out, "l%d=\"x\",", i)
		}
		out.WriteString("} 1\n")
	case "/loop":
		http.Redirect(w, r, "/loop", http.StatusFound)
	case "/malformed":
		w.Header().Set("Content-Type", protoFormat)
		out.Write(append(binary.AppendUvarint(nil, 1<<40), "short"...))
	case "/nested":
		w.Header().Set("Content-Type", protoFormat)
		deep := bytes.Repeat([]byte{0x0b}, 8<<20) // groups that open and never end
		out.Write(append(binary.AppendUvarint(nil, uint64(len(deep))), deep...))
	}
}

// Targets that want to hurt are down with the reason, in bounded memory and time, and the others are not touched by it.
func TestHostileTargets(t *testing.T) {
	t.Parallel()
	millions()
	reasons := map[string]string{
		"endless":   "body_size_limit exceeded: 4194305 bytes read so far, limit 4194304",
		"drip":      "no complete answer within the scrape timeout of 2s",
		"bomb":      "body_size_limit exceeded: 134217729 bytes read so far, limit 134217728",
		"millions":  "series",
		"many":      "series_limit exceeded: 200000 series beside the ",
		"utf8":      "",
		"label":     "label_value_length_limit exceeded",
		"name":      "label_name_length_limit exceeded",
		"labels":    "label_limit exceeded",
		"loop":      "stopped after 10 redirects",
		"malformed": "",
		"nested":    "",
	}
	server := httptest.NewServer(http.HandlerFunc(hostile))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	good := targets.New(t, "good", 50)
	var jobs strings.Builder
	for name := range reasons {
		limit := ""
		switch name {
		case "endless":
			limit = ", body_size_limit: 4MB"
		case "label":
			limit = ", label_value_length_limit: 1000"
		case "name":
			limit = ", label_name_length_limit: 1000"
		case "labels":
			limit = ", label_limit: 100"
		case "drip":
			limit = ", scrape_timeout: 2s"
		}
		if name != "drip" {
			limit += ", scrape_timeout: 28s"
		}
		fmt.Fprintf(&jobs, "- {job_name: %s, scrape_interval: 30s, metrics_path: /%s, static_configs: [{targets: ['%s']}]%s}\n",
			name, name, server.Listener.Addr(), limit)
	}
	p := startStandalone(t, standaloneYAML(t, "edge", "1s", fmt.Sprintf(`
poller: {series_limit: 100000}
scrape_configs:
- {job_name: good, static_configs: [{targets: ['%s'], labels: {instance: good}}]}
%s`, good.Host(), jobs.String())))
	stalled := watchStalls(t)
	want := harness.Labels{"job": "good", "instance": "good"}
	good.WaitShown(t, 60*time.Second, p, want, 0)
	var all struct {
		ActiveTargets []struct {
			ScrapePool, Health, LastError string
			LastScrapeDuration            float64
		}
	}
	harness.Wait(t, 120*time.Second, "all hostile targets are down", func() error {
		if err := ask(p.URL, "/api/v1/targets", &all); err != nil {
			return err
		}
		for _, g := range all.ActiveTargets {
			reason, bad := reasons[g.ScrapePool]
			if bad && (g.Health != "down" || g.LastError == "" || len(g.LastError) > 2000 || !strings.Contains(g.LastError, reason)) {
				return fmt.Errorf("%.300q", fmt.Sprint(g))
			}
		}
		page, err := p.Gateway("")
		if err != nil {
			return err
		}
		for name := range reasons {
			if up, err := page.Up(harness.Labels{"job": name}); err != nil || up != 0 {
				return fmt.Errorf("%s: up %v, %v", name, up, err)
			}
		}
		return nil
	})
	before := good.Numbers()
	time.Sleep(31 * time.Second) // all of them once more
	good.WaitShown(t, 10*time.Second, p, want, before+5)
	// This process makes what the hostile ones serve, on the same processors: what stands still here may do so there.
	stall := stalled()
	var gap, longest time.Duration
	for served, i := good.Served(), 1; i < len(served); i++ {
		gap = max(gap, served[i].Asked.Sub(served[i-1].Asked))
	}
	for _, g := range all.ActiveTargets {
		took := time.Duration(g.LastScrapeDuration * float64(time.Second))
		if longest = max(longest, took); g.ScrapePool == "drip" && took > 3*time.Second+stall {
			t.Errorf("a body that drips was read for %v", took)
		}
	}
	t.Logf("%d MB of memory at most; the good target was not asked for %v at most, the longest scrape took %v; this process stood still for %v",
		p.PeakMemory()>>20, gap, longest, stall)
	if gap > 3*time.Second+stall { // of one second, one scrape left out, and some
		t.Errorf("the good target was not asked for %v", gap)
	}
	// A scrape ends in time, but for the series that were read until then.
	if longest > 30*time.Second+stall {
		t.Errorf("a scrape took %v", longest)
	}
	// Two bodies of the default body_size_limit at once, each beside the half of it that it grew from, and 700,000 series, of
	// which there may be as much again until the garbage collector comes.
	if peak, most := p.PeakMemory(), int64(2*(128+64)<<20+2*700_000*400+64<<20); peak > most {
		t.Errorf("%d MB of memory, more than %d", peak>>20, most>>20)
	}
	for limit, want := range map[string]float64{"body_size_limit": 2, "series_limit": 1, "label_limit": 1, "label_name_length_limit": 1, "label_value_length_limit": 1, "schema": 1} {
		if v := p.Metrics(t).Sum("prometheus_streams_scrape_exceeded_limit_total", harness.Labels{"limit": limit}); v < want {
			t.Errorf("limit %s was exceeded %v times, want at least %v", limit, v, want)
		}
	}
}

// watchStalls measures for how long at most this process gets no time.
func watchStalls(t *testing.T) (worst func() time.Duration) {
	var most atomic.Int64
	go func() {
		const step = 50 * time.Millisecond
		for t.Context().Err() == nil {
			before := time.Now()
			time.Sleep(step)
			most.Store(max(most.Load(), int64(time.Since(before)-step)))
		}
	}()
	return func() time.Duration { return time.Duration(most.Load()) }
}

// Twelve bodies without an end at once take no more memory than body_memory_limit and what the garbage collector leaves
// lying about, and targets beside them are scraped as if they were not there, small and large.
func TestEndlessBodiesShareTheirMemory(t *testing.T) {
	t.Parallel()
	block := bytes.Repeat([]byte("endless 1\n"), 6_000)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", textFormat)
		if r.URL.Path == "/large" {
			for i := range 60_000 {
				fmt.Fprintf(w, "large_value_of_some_length{number=\"%d\",more=\"label to make it longer\"} 1\n", i)
			}
			return
		}
		for {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	}))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	good := targets.New(t, "good", 50)
	var groups strings.Builder
	for i := range 12 {
		fmt.Fprintf(&groups, "  - {targets: ['%s'], labels: {instance: endless%d}}\n", server.Listener.Addr(), i)
	}
	p := startStandalone(t, standaloneYAML(t, "edge", "5s", fmt.Sprintf(`
poller: {body_memory_limit: 128MB}
scrape_configs:
- {job_name: good, scrape_interval: 1s, static_configs: [{targets: ['%s'], labels: {instance: good}}]}
- {job_name: large, metrics_path: /large, static_configs: [{targets: ['%s']}]}
- job_name: endless
  static_configs:
%s`, good.Host(), server.Listener.Addr(), groups.String())))
	want := harness.Labels{"job": "good", "instance": "good"}
	good.WaitShown(t, 60*time.Second, p, want, 0)
	harness.Wait(t, 60*time.Second, "the endless ones are refused for their memory", func() error {
		if v := p.Metrics(t).Sum("prometheus_streams_scrape_exceeded_limit_total", harness.Labels{"limit": "body_memory_limit"}); v < 12 {
			return fmt.Errorf("%v times", v)
		}
		return nil
	})
	large := func() error {
		page, err := p.Gateway("")
		if err != nil {
			return err
		}
		if up, err := page.Up(harness.Labels{"job": "large"}); err != nil || up != 1 {
			return fmt.Errorf("up %v, %v", up, err)
		}
		return nil
	}
	harness.Wait(t, 60*time.Second, "the large target is scraped", large)
	harness.Holds(t, 20*time.Second, "the large target is up", large)
	good.WaitShown(t, 10*time.Second, p, want, good.Numbers())
	all := p.Metrics(t)
	t.Logf("%d MB of memory at most; %v refused for the memory, %v for their size", p.PeakMemory()>>20,
		all.Sum("prometheus_streams_scrape_exceeded_limit_total", harness.Labels{"limit": "body_memory_limit"}),
		all.Sum("prometheus_streams_scrape_exceeded_limit_total", harness.Labels{"limit": "body_size_limit"}))
	// Twice the limit, since the garbage collector lets as much lie, and the process itself with its large target.
	if peak := p.PeakMemory(); peak > (2*128+192)<<20 {
		t.Errorf("%d MB of memory", peak>>20)
	}
}
