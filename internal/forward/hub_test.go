package forward

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/choria-io/prometheus-streams/internal/spool"
	"github.com/choria-io/prometheus-streams/internal/stream"
)

const (
	framesSubject  = "t.frames.dc1.live"
	schemasSubject = "t.schemas.dc1."
)

// hub is a stream and the connection to it. What happens to a message is answer's decision: whether it is stored, and
// with which error its publisher is answered.
type hub struct {
	mu     sync.Mutex
	answer func(subject string, data []byte) (store bool, err error)
	delay  time.Duration // of each result
	ready  func() error

	stored   []string // subject and message, in order
	sequence uint64
	readies  int
	most     int // results outstanding at once
	pending  int
}

func (h *hub) Publish(subject string, data []byte) <-chan stream.Result {
	h.mu.Lock()
	defer h.mu.Unlock()
	result := make(chan stream.Result, 1)
	store, err := true, error(nil)
	if h.answer != nil {
		store, err = h.answer(subject, data)
	}
	r := stream.Result{Err: err}
	if store {
		h.sequence++
		h.stored = append(h.stored, strings.TrimPrefix(subject, "t.")+" "+string(data))
		r.Sequence = h.sequence
	}
	h.pending++
	h.most = max(h.most, h.pending)
	time.AfterFunc(h.delay, func() { h.change(func() { h.pending-- }); result <- r })
	return result
}

func (h *hub) Ready(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.readies++
	if h.ready != nil {
		return h.ready()
	}
	return ctx.Err()
}

// change changes what the hub does next.
func (h *hub) change(what func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	what()
}

// all are the stored messages.
func (h *hub) all() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.stored)
}

// messages are the stored messages of frames, without schemas.
func (h *hub) messages() (got []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.stored {
		if m, ok := strings.CutPrefix(s, "frames.dc1.live "); ok {
			got = append(got, m)
		}
	}
	return got
}

type bench struct {
	t     *testing.T
	hub   *hub
	spool *spool.Memory
	log   lockedBuffer
	reg   *prometheus.Registry
	f     *Forwarder
}

type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

func newBench(t *testing.T, c Config) *bench {
	b := &bench{t: t, hub: &hub{delay: 10 * time.Millisecond}, spool: spool.NewMemory(spool.MemoryOptions{}), reg: prometheus.NewPedanticRegistry()}
	if c.Spool == nil {
		c.Spool = b.spool
	}
	c.Publisher, c.Registerer = b.hub, b.reg
	c.Logger = slog.New(slog.NewTextHandler(&b.log, nil))
	b.f = New(c)
	return b
}

func (b *bench) append(messages ...string) {
	b.t.Helper()
	for _, m := range messages {
		b.appendWith(m)
	}
}

func (b *bench) appendWith(message string, schemas ...string) {
	b.t.Helper()
	var ss []spool.Schema
	for _, id := range schemas {
		ss = append(ss, spool.Schema{ID: id, Subject: schemasSubject + id, Message: []byte("schema " + id)})
	}
	r := spool.Record{Subject: framesSubject, Message: []byte(message), Schemas: schemas, Frames: 3, Samples: 100}
	if err := b.spool.Append(r, ss...); err != nil {
		b.t.Fatal(err)
	}
}

func numbered(n int) (names []string) {
	for i := range n {
		names = append(names, fmt.Sprintf("m%04d", i))
	}
	return names
}

// drain closes the spool and runs the forwarder until it has forwarded all.
func (b *bench) drain() {
	b.t.Helper()
	b.spool.Close()
	if err := b.f.Run(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	if n, _, _ := b.spool.Held(); n != 0 {
		b.t.Errorf("%d records left in the spool", n)
	}
}

func (b *bench) metric(name string, want float64) {
	b.t.Helper()
	families, err := b.reg.Gather()
	if err != nil {
		b.t.Fatal(err)
	}
	got := 0.0
	for _, f := range families {
		if f.GetName() != "prometheus_streams_"+name {
			continue
		}
		for _, m := range f.GetMetric() {
			got += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	if got != want {
		b.t.Errorf("%s = %v, want %v", name, got, want)
	}
}

func (b *bench) logged(text string, times int) {
	b.t.Helper()
	if n := strings.Count(b.log.String(), text); n != times {
		b.t.Errorf("logged %q %d times, want %d:\n%s", text, n, times, b.log.String())
	}
}
