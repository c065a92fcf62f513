package poller

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/target"
)

// world is a poller between targets whose scrapes are functions and a spool that remembers.
type world struct {
	t   *testing.T
	p   *Poller
	reg *prometheus.Registry
	log lockedBuffer

	mu       sync.Mutex
	bundles  []Bundle
	refuse   error // what Append answers
	scrapes  map[string][]time.Time
	behave   map[string]func(ctx context.Context) (*frame.Frame, error) // by instance; the others answer at once
	broken   map[string]error                                           // by instance: no scraper can be made
	live     []frame.SchemaID
	running  int
	most     int
	stopRun  context.CancelFunc
	finished chan error
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func newWorld(t *testing.T, c Config) *world {
	w := &world{t: t, reg: prometheus.NewPedanticRegistry(), scrapes: map[string][]time.Time{},
		behave: map[string]func(context.Context) (*frame.Frame, error){}, broken: map[string]error{}}
	c.Publisher, c.Spool, c.NewScraper, c.Live = "dc1", w, w.newScraper, w.setLive
	c.Registerer = w.reg
	c.Logger = slog.New(slog.NewTextHandler(&w.log, nil))
	w.p = New(c)
	return w
}

func (w *world) Append(b Bundle) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.refuse != nil {
		return w.refuse
	}
	for _, s := range b.Schemas {
		if !contains(w.live, s.ID) {
			w.t.Errorf("a bundle needs the schema %s, which was not told to be in use", s.ID)
		}
	}
	w.bundles = append(w.bundles, b)
	return nil
}

func contains(ids []frame.SchemaID, id frame.SchemaID) bool {
	for _, i := range ids {
		if i == id {
			return true
		}
	}
	return false
}

func (w *world) setLive(ids []frame.SchemaID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.live = ids
}

func (w *world) newScraper(t *target.Target) (Scraper, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.broken[t.Instance()]; err != nil {
		return nil, err
	}
	return scraperFunc(func(ctx context.Context) (*frame.Frame, error) {
		w.mu.Lock()
		w.scrapes[t.Instance()] = append(w.scrapes[t.Instance()], time.Now())
		w.running++
		w.most = max(w.most, w.running)
		do := w.behave[t.Instance()]
		w.mu.Unlock()
		defer w.change(func() { w.running-- })
		if do != nil {
			return do(ctx)
		}
		return up(1), nil
	}), nil
}

type scraperFunc func(ctx context.Context) (*frame.Frame, error)

func (f scraperFunc) Scrape(ctx context.Context) (*frame.Frame, error) { return f(ctx) }

// change changes the world, or looks at it.
func (w *world) change(what func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	what()
}

func (w *world) run() {
	ctx, cancel := context.WithCancel(w.t.Context())
	w.stopRun, w.finished = cancel, make(chan error, 1)
	go func() { w.finished <- w.p.Run(ctx) }()
	synctest.Wait()
}

// stop stops the poller and tells how long that took.
func (w *world) stop() time.Duration {
	w.t.Helper()
	start := time.Now()
	w.stopRun()
	if err := <-w.finished; err != nil {
		w.t.Errorf("Run = %v", err)
	}
	return time.Since(start)
}

// schema has n series.
func schema(name string, n int) *frame.Schema {
	series := make([]frame.Series, n)
	for i := range series {
		series[i] = frame.Series{Labels: labels.FromStrings("__name__", name, "i", fmt.Sprintf("%06d", i))}
	}
	s, err := frame.NewSchema([]frame.Family{{Name: name, Type: model.MetricTypeGauge}}, series, frame.DefaultLimits())
	if err != nil {
		panic(err)
	}
	return s
}

func scraped(s *frame.Schema, value float64) *frame.Frame {
	c := frame.Column{Values: make([]float64, len(s.Series))}
	for i := range c.Values {
		c.Values[i] = value
	}
	return &frame.Frame{Kind: frame.Scraped, Time: time.Now().UnixMilli(), Schema: s, Column: c,
		Report: frame.Report{Duration: 20 * time.Millisecond, Scraped: len(s.Series), PostRelabel: len(s.Series)}}
}

func up(value float64) *frame.Frame { return scraped(schema("m", 3), value) }

func down() *frame.Frame { return &frame.Frame{Kind: frame.Down, Time: time.Now().UnixMilli()} }

func tgt(t *testing.T, instance string, interval time.Duration) *target.Target {
	t.Helper()
	return &target.Target{Labels: labels.FromStrings("job", "j", "instance", instance), URL: "http://" + instance + "/metrics",
		Interval: interval, Timeout: interval}
}

// decoded is a bundle taken apart.
type decoded struct {
	frame.Header
	frames []*frame.Frame
}

// read decodes all bundles and checks what holds for any epoch: numbers without a hole, exact totals, ids never used
// again after their end, positions that grow, the schemas named.
func (w *world) read() (all []decoded) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	decoder := frame.NewDecoder(w.p.Epoch(), frame.DefaultLimits())
	var totals frame.Totals
	ended, positions, owners := map[uint64]bool{}, map[uint64]uint64{}, map[uint64]string{}
	for i, b := range w.bundles {
		parsed, err := frame.ParseBundle(b.Message, frame.DefaultLimits())
		if err != nil {
			w.t.Fatal(err)
		}
		d := decoded{Header: parsed.Header}
		samples := 0
		for raw, err := range parsed.Frames() {
			if err != nil {
				w.t.Fatal(err)
			}
			f, err := decoder.Decode(raw, func(id frame.SchemaID) (*frame.Schema, error) {
				for _, s := range b.Schemas {
					if s.ID == id {
						return s, nil
					}
				}
				return nil, fmt.Errorf("bundle %d does not name schema %s", i, id)
			})
			if err != nil {
				w.t.Fatal(err)
			}
			d.frames = append(d.frames, f)
			if f.Kind == frame.EpochEnd {
				continue
			}
			totals.Frames++
			if f.Kind == frame.Scraped {
				samples += len(f.Schema.Series)
			}
			id, who := f.Target.ID, f.Target.Labels.String()
			if ended[id] {
				w.t.Errorf("a frame of target %d after its end", id)
			}
			if before, ok := positions[id]; ok && f.Position <= before {
				w.t.Errorf("target %d: position %d after %d", id, f.Position, before)
			}
			if owners[id] != "" && owners[id] != who {
				w.t.Errorf("id %d is bound to %s and to %s", id, owners[id], who)
			}
			positions[id], owners[id], ended[id] = f.Position, who, f.Kind == frame.End
		}
		totals.Samples += uint64(samples)
		if b.Samples != samples || d.Seq != uint64(i+1) || d.Epoch != w.p.Epoch() || d.Publisher != "dc1" || d.Lane != "live" {
			w.t.Errorf("bundle %d: %d samples, header %+v", i, b.Samples, d.Header)
		}
		if d.Totals == nil || *d.Totals != totals {
			w.t.Errorf("bundle %d: totals %+v, want %+v", i, d.Totals, totals)
		}
		all = append(all, d)
	}
	return all
}

// frames are those of an instance, in order.
func (w *world) frames(instance string) (all []*frame.Frame) {
	w.t.Helper()
	for _, b := range w.read() {
		for _, f := range b.frames {
			if f.Target != nil && f.Target.Labels.Get("instance") == instance {
				all = append(all, f)
			}
		}
	}
	return all
}

// kinds writes frames as text: u for up, d for down, E and the reason for the end.
func kinds(frames []*frame.Frame) string {
	var b strings.Builder
	for _, f := range frames {
		switch f.Kind {
		case frame.Scraped:
			b.WriteByte('u')
		case frame.Down:
			b.WriteByte('d')
		case frame.End:
			fmt.Fprintf(&b, "E%d", f.Reason)
		}
	}
	return b.String()
}

func (w *world) metric(name, label string, want float64) {
	w.t.Helper()
	families, err := w.reg.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	got, found := 0.0, false
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var text []string
			for _, l := range m.GetLabel() {
				text = append(text, l.GetValue())
			}
			if f.GetName() == "prometheus_streams_poller_"+name && strings.Contains(strings.Join(text, " "), label) {
				found = true
				got += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetSummary().GetSampleCount())
			}
		}
	}
	if got != want || !found {
		w.t.Errorf("%s{%s} = %v (found %t), want %v", name, label, got, found, want)
	}
}

func (w *world) logged(text string, times int) {
	w.t.Helper()
	if n := strings.Count(w.log.String(), text); n != times {
		w.t.Errorf("logged %q %d times, want %d:\n%s", text, n, times, w.log.String())
	}
}
