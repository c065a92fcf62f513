package main

import (
	"bufio"
	"fmt"
	"math"
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/choria-io/prometheus-streams/internal/config"
	"github.com/choria-io/prometheus-streams/internal/poller"
	"github.com/choria-io/prometheus-streams/internal/scrape"
	"github.com/choria-io/prometheus-streams/internal/target"
)

// targets adds what finds targets for a poller, and finds those of the configuration that need no discovery.
func (h *house) targets(p *poller.Poller, shared *scrape.Shared) error {
	m := target.NewManager(target.Options{Update: p.Update, Logger: h.env.Logger, Registerer: h.env.Registry})
	tc, err := targetsOf(h.cfg)
	if err != nil {
		return err
	}
	if err := checkClients(tc); err != nil {
		// The others can be scraped, and these once their files are there.
		h.env.Logger.Warn("targets cannot be asked", "error", err)
	}
	if len(h.cfg.Ignored) > 0 {
		h.env.Logger.Info("sections of the Prometheus file that mean nothing here are ignored",
			"file", h.env.Flags.PrometheusConfig, "reason", strings.Join(h.cfg.Ignored, ", "))
	}
	if err := m.Apply(tc); err != nil {
		return err
	}
	h.env.OnReload(func(next *config.Config) error {
		tc, err := targetsOf(next)
		if err != nil {
			return err
		}
		if err := checkClients(tc); err != nil {
			return err
		}
		if err := shared.Reopen(); err != nil {
			return err
		}
		return m.Apply(tc)
	})
	h.actor(m.Run)
	h.web.targets = m
	return nil
}

// targetsOf is what a configuration wants scraped: its scrape configs, its jobs, and the process itself if it serves its
// metrics.
func targetsOf(c *config.Config) (target.Config, error) {
	s := target.Schedule{Interval: time.Duration(c.ScrapeInterval), Timeout: time.Duration(c.ScrapeTimeout)}
	out := target.Config{ScrapeConfigs: c.Scrape(), External: c.Labels(), SampleLimit: c.Poller.SampleLimit}
	for _, job := range c.Jobs {
		for _, t := range job.Targets {
			made, err := target.FromJob(job.Name, t.Name, string(t.URL), s, c.Labels())
			if err != nil {
				return out, fmt.Errorf("%s:%d: %w", c.File, t.Line, err)
			}
			made.SampleLimit = c.Poller.SampleLimit
			out.Fixed = append(out.Fixed, made)
		}
	}
	if address := c.ListenAddress(); address != "" {
		self, err := target.FromSelf(c.Identity, "http://"+address+"/metrics", s, c.Labels())
		if err != nil {
			return out, err
		}
		out.Fixed = append(out.Fixed, self)
	}
	return out, nil
}

// checkClients tells of the first scrape config whose targets cannot be asked, whatever they are.
func checkClients(c target.Config) error {
	for _, s := range c.ScrapeConfigs {
		if err := scrape.CheckClient(target.NewClient(s.JobName, s.HTTPClientConfig, "")); err != nil {
			return err
		}
	}
	return nil
}

// bytesPerSeries is what a series of a target costs a poller at most, while its target changes shape.
const bytesPerSeries = 1 << 10

// seriesLimit is how many series a poller takes on: as configured, else as many as its memory holds; 0 is no bound.
func seriesLimit(configured *int) int {
	if configured != nil {
		return *configured
	}
	if memory := memoryLimit(); memory > 0 && memory < math.MaxInt64 {
		return int(memory / bytesPerSeries)
	}
	return 0
}

// bodyMemoryLimit is how much memory the expositions that are read at the same time may take: as configured, else a
// quarter of what the process may use, since as much may wait for the garbage collector; 0 is no bound.
func bodyMemoryLimit(configured *config.Size) int64 {
	if configured != nil {
		return int64(*configured)
	}
	if memory := memoryLimit(); memory > 0 && memory < math.MaxInt64 {
		return memory / 4
	}
	return 0
}

// memoryLimit is the memory that the process may use: GOMEMLIMIT, or what its control groups allow, or half of what the
// machine has; 0 if none of them is known.
func memoryLimit() int64 {
	limit := debug.SetMemoryLimit(-1)
	if limit == math.MaxInt64 {
		limit = cgroupLimit("/sys/fs/cgroup", "/proc/self/cgroup")
	}
	if limit == math.MaxInt64 {
		limit = machineMemory("/proc/meminfo") / 2
	}
	return limit
}

// cgroupLimit is the least memory.max of the process's control group and those around it.
func cgroupLimit(root, self string) int64 {
	limit := int64(math.MaxInt64)
	text, err := os.ReadFile(self)
	if err != nil {
		return limit
	}
	for line := range strings.Lines(string(text)) {
		group, ok := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !ok {
			continue
		}
		for group = path.Clean("/" + group); ; group = path.Dir(group) {
			if b, err := os.ReadFile(root + group + "/memory.max"); err == nil {
				if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil && n > 0 {
					limit = min(limit, n)
				}
			}
			if group == "/" {
				break
			}
		}
	}
	return limit
}

// machineMemory is what the machine has, in bytes.
func machineMemory(file string) int64 {
	f, err := os.Open(file)
	if err != nil {
		return 0
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if fields := strings.Fields(s.Text()); len(fields) >= 2 && fields[0] == "MemTotal:" {
			kib, _ := strconv.ParseInt(fields[1], 10, 64)
			return kib << 10
		}
	}
	return 0
}
