package receiver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
	"github.com/choria-io/prometheus-streams/internal/stream"
)

// world is a stream, a registry and a sink in memory, around one pipeline.
type world struct {
	t      *testing.T
	reg    *prometheus.Registry
	limits Limits
	state  string
	log    io.Writer // the test's own if nil
	gate   func(*Metrics) *Gate
	// publishers may be nil.
	publishers *Publishers
	// only are the publishers that are received.
	only []string
	p    *Pipeline // that of the last start

	mu       sync.Mutex
	messages []stream.Message // all that the stream ever stored
	acked    map[uint64]int
	alive    map[uint64]int // InProgress calls
	schemas  map[frame.SchemaID][]byte
	registry error // what the registry answers instead of schemas
	asked    int
	reads    []stream.Range
	slow     map[string]chan struct{} // reading a subject in it waits

	floor  stream.Floor
	feed   chan stream.Event
	sink   *fakeSink
	cancel context.CancelFunc
	ended  chan error
}

func newWorld(t *testing.T) *world {
	return &world{
		t: t, limits: DefaultLimits(),
		acked: make(map[uint64]int), alive: make(map[uint64]int),
		schemas: make(map[frame.SchemaID][]byte),
		sink:    &fakeSink{},
	}
}

// start runs a new pipeline over the same stream: a fresh process.
func (w *world) start() {
	w.t.Helper()
	w.reg = prometheus.NewRegistry()
	w.feed = make(chan stream.Event, 10000)
	if w.log == nil {
		w.log = w.t.Output()
	}
	logger := slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	schemas, err := NewSchemas("", w.limits.Frame, logger)
	if err != nil {
		w.t.Fatal(err)
	}
	metrics, gate := NewMetrics(w.reg), (*Gate)(nil)
	if w.gate != nil {
		gate = w.gate(metrics)
	}
	p, err := New(Config{
		Gate: gate, Publishers: w.publishers, Only: w.only,
		Name: "test", Sink: w.sink, Schemas: schemas, StateDirectory: w.state, Limits: w.limits,
		Metrics: metrics, Logger: logger,
		Sources: []Source{{
			Name: "FRAMES", Consumer: w, History: w, Registry: w,
			Publisher: func(subject string) (string, error) {
				if subject == "junk" {
					return "", errors.New("no publisher")
				}
				return subject, nil
			},
		}},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w.t.Cleanup(cancel)
	w.cancel, w.ended, w.p = cancel, make(chan error, 1), p
	go func() { w.ended <- p.Run(ctx) }()
	synctest.Wait()
}

func (w *world) stop() {
	w.t.Helper()
	w.cancel()
	if err := <-w.ended; err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) Open(context.Context) (stream.Floor, error) { return w.floor, nil }

func (w *world) Receive(ctx context.Context, handle func(stream.Event)) error {
	for {
		select {
		case ev := <-w.feed:
			handle(ev)
		case <-ctx.Done():
			return nil
		}
	}
}

func (w *world) Read(_ context.Context, r stream.Range, handle func(stream.Message) error) error {
	w.mu.Lock()
	messages := append([]stream.Message(nil), w.messages...)
	w.reads = append(w.reads, r)
	slow := w.slow[r.Subject]
	w.mu.Unlock()
	if slow != nil {
		<-slow
	}
	for _, m := range messages {
		if m.Stored.Before(r.From) || m.Sequence > r.To || (r.Subject != "" && m.Subject != r.Subject) || m.Sequence < w.floor.First {
			continue
		}
		if err := handle(m); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) Schema(_ context.Context, _ string, id frame.SchemaID) ([]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked++
	if w.registry != nil {
		return nil, w.registry
	}
	if b := w.schemas[id]; b != nil {
		return b, nil
	}
	return nil, stream.ErrNotFound
}

// store puts a message into the stream without delivering it.
func (w *world) store(subject string, data []byte) uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	seq := uint64(len(w.messages) + 1)
	w.messages = append(w.messages, stream.Message{Subject: subject, Data: data, Sequence: seq, Stored: time.Now()})
	return seq
}

// hand delivers stored messages.
func (w *world) hand(seqs ...uint64) {
	for _, seq := range seqs {
		w.feed <- w.delivery(seq)
	}
	synctest.Wait()
}

// pass puts a stored message behind the gate, where those are that were on their way when it was shut.
func (w *world) pass(seq uint64) {
	w.p.events <- event{source: w.p.sources[0], Event: w.delivery(seq)}
	synctest.Wait()
}

func (w *world) delivery(seq uint64) stream.Event {
	m := w.messages[seq-1]
	m.Ack = func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.acked[m.Sequence]++
		return nil
	}
	m.InProgress = func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.alive[m.Sequence]++
		return nil
	}
	return stream.Event{Kind: stream.Delivered, Message: &m}
}

func (w *world) send(subject string, data []byte) uint64 {
	seq := w.store(subject, data)
	w.hand(seq)
	return seq
}

func (w *world) wantAcked(seqs ...uint64) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	want := make(map[uint64]bool)
	for _, s := range seqs {
		want[s] = true
		if w.acked[s] == 0 {
			w.t.Errorf("message %d is not acknowledged", s)
		}
	}
	for s := range w.acked {
		if !want[s] {
			w.t.Errorf("message %d is acknowledged", s)
		}
	}
}

// metric sums the samples of a metric that have all the label values given (name, value pairs).
func (w *world) metric(name string, pairs ...string) float64 {
	w.t.Helper()
	families, err := w.reg.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != "prometheus_streams_receiver_"+name {
			continue
		}
	metrics:
		for _, m := range f.Metric {
			for i := 0; i < len(pairs); i += 2 {
				if labelOf(m, pairs[i]) != pairs[i+1] {
					continue metrics
				}
			}
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sum
}

func labelOf(m *dto.Metric, name string) string {
	for _, l := range m.Label {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

func (w *world) wantMetric(want float64, name string, pairs ...string) {
	w.t.Helper()
	if got := w.metric(name, pairs...); got != want {
		w.t.Errorf("%s %v = %v, want %v", name, pairs, got, want)
	}
}

// fakeSink keeps what it is given; verdict decides, nil means accept at once.
type fakeSink struct {
	mu      sync.Mutex
	got     []sink.Delivery
	recalls []sink.Delivery
	verdict func(d sink.Delivery, done func(error))
}

func (s *fakeSink) Deliver(_ context.Context, d sink.Delivery, done func(error)) {
	s.mu.Lock()
	s.got = append(s.got, d)
	verdict := s.verdict
	s.mu.Unlock()
	if verdict == nil {
		done(nil)
		return
	}
	verdict(d, done)
}

func (s *fakeSink) Recall(_ context.Context, d sink.Delivery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recalls = append(s.recalls, d)
}

// recalled checks the first values of the frames that the sink was told to remember since the last time.
func (s *fakeSink) recalled(t *testing.T, want ...float64) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	var got []float64
	for _, d := range s.recalls {
		got = append(got, d.Frame.Column.Values[0])
	}
	s.recalls = nil
	if !slices.Equal(got, want) {
		t.Errorf("recalled %v, want %v", got, want)
	}
}

// values lists "publisher/value" of the first series of each frame delivered.
func (s *fakeSink) values() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, d := range s.got {
		switch d.Frame.Kind {
		case frame.Scraped:
			out = append(out, fmt.Sprintf("%s/%v", d.Publisher, d.Frame.Column.Values[0]))
		case frame.Down:
			out = append(out, d.Publisher+"/down")
		default:
			out = append(out, fmt.Sprintf("%s/kind%d", d.Publisher, d.Frame.Kind))
		}
	}
	return out
}

func (s *fakeSink) want(t *testing.T, want ...string) {
	t.Helper()
	if got := s.values(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("delivered\n%v, want\n%v", got, want)
	}
}

// site is a publisher with one target of two series; its first series counts the scrapes.
type site struct {
	w       *world
	name    string
	epoch   uint64
	seq     uint64
	scrapes float64
	schema  *frame.Schema
	encoder *frame.Encoder
	opts    frame.EncoderOptions
	totals  frame.Totals
	pre     *frame.Predecessor
	skew    time.Duration // of its clock
}

func newSite(w *world, name string, opts frame.EncoderOptions) *site {
	schema, err := frame.NewSchema(
		[]frame.Family{{Name: "scrapes", Type: model.MetricTypeCounter}},
		[]frame.Series{
			{Labels: labels.FromStrings("__name__", "scrapes"), Base: 1},
			{Labels: labels.FromStrings("__name__", "noise"), Family: -1, Base: 0.5},
		}, w.limits.Frame)
	if err != nil {
		w.t.Fatal(err)
	}
	s := &site{w: w, name: name, schema: schema, epoch: rand.Uint64()}
	w.schemas[schema.ID] = schema.Marshal()
	s.restart(opts)
	return s
}

// rename gives its second series another name, and so the target another schema.
func (s *site) rename(name string) {
	schema, err := frame.NewSchema(s.schema.Families, []frame.Series{
		s.schema.Series[0], {Labels: labels.FromStrings("__name__", name), Family: -1, Base: 0.5},
	}, s.w.limits.Frame)
	if err != nil {
		s.w.t.Fatal(err)
	}
	s.schema = schema
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.w.schemas[schema.ID] = schema.Marshal()
}

// forget has the registry lose a schema.
func (w *world) forget(id frame.SchemaID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.schemas, id)
}

// restart begins a new epoch.
func (s *site) restart(opts frame.EncoderOptions) {
	s.epoch++
	s.seq, s.totals = 0, frame.Totals{}
	s.opts = opts
	s.every(15 * time.Second)
}

// every begins anew with another interval of scrapes; only before the first bundle of an epoch.
func (s *site) every(interval time.Duration) {
	s.encoder = frame.NewEncoder(s.epoch, &frame.Target{
		ID:       1,
		Labels:   labels.FromStrings("instance", s.name, "job", "test"),
		Interval: interval, Timeout: 10 * time.Second,
	}, s.opts)
}

// bundle makes the next bundle, with one scrape.
func (s *site) bundle() []byte {
	s.scrapes++
	s.seq++
	frames, err := s.encoder.AppendScrape(nil, time.Now().Add(s.skew).UnixMilli(), frame.Report{Duration: time.Millisecond, Scraped: 2, PostRelabel: 2},
		s.schema, &frame.Column{Values: []float64{s.scrapes, rand.Float64()}})
	if err != nil {
		s.w.t.Fatal(err)
	}
	s.totals.Frames++
	s.totals.Samples += 2
	totals := s.totals
	return frame.AppendBundle(nil, frame.Header{
		Publisher: s.name, Lane: "live", Epoch: s.epoch, Seq: s.seq, Totals: &totals, Predecessor: s.pre,
	}, frames)
}

// send stores and delivers the next bundle.
func (s *site) send() uint64 { return s.w.send(s.name, s.bundle()) }
