package forward

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

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

func TestDrainsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{Window: 8})
		want := numbered(500)
		b.append(want...)
		start := time.Now()
		b.drain()
		if got := b.hub.messages(); !slices.Equal(got, want) {
			t.Errorf("stored %d messages, not the %d in order", len(got), len(want))
		}
		if b.hub.most != 8 {
			t.Errorf("%d messages on their way at once, the window is 8", b.hub.most)
		}
		if took := time.Since(start); took > 700*time.Millisecond {
			t.Errorf("took %v: the window does not slide", took)
		}
		b.metric("poller_published_count", 1500)
		b.metric("forward_messages_total", 500)
		b.metric("forward_resent_messages_total", 0)
		b.metric("poller_publish_errors", 0)
		b.logged("stored the first message", 1)
		if problems, err := testutil.GatherAndLint(b.reg, "prometheus_streams_forward_messages_total", "prometheus_streams_forward_blocked",
			"prometheus_streams_forward_last_stored_timestamp_seconds", "prometheus_streams_forward_aside_records_total"); err != nil || len(problems) > 0 {
			t.Errorf("lint: %v %v", problems, err)
		}
	})
}

func TestForwardsAsItComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- b.f.Run(ctx) }()
		for i := range 5 {
			b.append(fmt.Sprint(i))
			time.Sleep(time.Second)
			if got := len(b.hub.messages()); got != i+1 {
				t.Errorf("%d messages stored a second after the %dth", got, i+1)
			}
		}
		time.Sleep(50 * time.Hour) // over the daily refresh
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run after its ctx ended: %v", err)
		}
	})
}

// What may go wrong with a message, by chance: nothing, the answer is lost, the message is lost, the connection is lost
// with all that follows until it is there again.
func TestErrorsByChance(t *testing.T) {
	for seed := range uint64(40) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, Config{Window: 1 + int(seed)%16})
			rnd := rand.New(rand.NewPCG(seed, 1))
			cut := false
			firstInOrder := seed%2 == 0 // no message passes where one before it got lost
			b.hub.answer = func(string, []byte) (bool, error) {
				if cut {
					return false, stream.ErrDisconnected
				}
				switch rnd.IntN(12) {
				case 0:
					cut = firstInOrder
					return true, errors.New("answer lost")
				case 1:
					cut = firstInOrder
					return false, errors.New("message lost")
				case 2:
					cut = true
					return rnd.IntN(2) == 0, stream.ErrDisconnected
				}
				return true, nil
			}
			b.hub.ready = func() error { cut = false; return nil }
			want := numbered(300)
			for i, m := range want {
				b.appendWith(m, fmt.Sprint("s", i/50))
			}
			b.drain()
			checkStored(t, b.hub, want, firstInOrder)
			b.metric("poller_published_count", 900)
			b.metric("forward_aside_records_total", 0)
		})
	}
}

// checkStored: every message at least once, all of them in order as a part of what the stream holds, each behind its schema.
func checkStored(t *testing.T, h *hub, want []string, firstInOrder bool) {
	t.Helper()
	next, seen, schemas := 0, map[string]bool{}, map[string]bool{}
	for _, s := range h.stored {
		m, ok := strings.CutPrefix(s, "frames.dc1.live ")
		if !ok {
			schemas[strings.TrimPrefix(s[strings.Index(s, " "):], " schema ")] = true
			continue
		}
		i := slices.Index(want, m)
		if i < 0 {
			t.Fatalf("stored %q, which was never appended", m)
		}
		if !schemas[fmt.Sprint("s", i/50)] {
			t.Errorf("%s stored before its schema", m)
		}
		if firstInOrder && !seen[m] && len(seen) != i {
			t.Errorf("%s stored for the first time behind %d others", m, len(seen))
		}
		seen[m] = true
		if next < len(want) && m == want[next] {
			next++
		}
	}
	if next != len(want) {
		t.Errorf("stored in order only up to %d of %d", next, len(want))
	}
}

func TestAckThatNeverComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{AckTimeout: time.Minute})
		forgotten := 0
		silent := &silentOnce{hub: b.hub, forgotten: &forgotten}
		b.f.publisher = silent
		b.append("a", "b")
		start := time.Now()
		b.drain()
		if got := b.hub.messages(); !slices.Equal(got, []string{"a", "b", "a", "b"}) && !slices.Equal(got, []string{"b", "a", "b"}) {
			t.Errorf("stored %q", got)
		}
		if took := time.Since(start); took < time.Minute || took > 65*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// silentOnce gives no result for the first message.
type silentOnce struct {
	*hub
	forgotten *int
}

func (s *silentOnce) Publish(subject string, data []byte) <-chan stream.Result {
	if *s.forgotten++; *s.forgotten == 1 {
		return make(chan stream.Result)
	}
	return s.hub.Publish(subject, data)
}

func TestPoisonIsSetAside(t *testing.T) {
	tests := []struct {
		name   string
		err    error
		reason string
		poison []string
		want   string
	}{
		{"too large", fmt.Errorf("%w: 9 bytes, limit 8", stream.ErrTooLarge), "too_large", []string{"c"}, "abdef"},
		{"refused", stream.ErrRefused, "refused", []string{"c"}, "abdef"},
		{"first", stream.ErrRefused, "refused", []string{"a"}, "bcdef"},
		{"several", stream.ErrRefused, "refused", []string{"a", "c", "e"}, "bdf"},
		{"in a row", stream.ErrRefused, "refused", []string{"b", "c", "d"}, "aef"},
	}
	for _, tt := range tests {
		for window := range 6 {
			t.Run(fmt.Sprint(tt.name, " window ", window+2), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := newBench(t, Config{Window: window + 2})
					b.hub.answer = func(_ string, data []byte) (bool, error) {
						if slices.Contains(tt.poison, string(data)) {
							return false, tt.err
						}
						return true, nil
					}
					if window+2 <= len(tt.poison) && tt.name == "in a row" {
						return // the window must reach behind the poison
					}
					b.append(strings.Split("abcdef", "")...)
					b.drain()
					var got []string
					for _, m := range b.hub.messages() {
						if !slices.Contains(got, m) {
							got = append(got, m)
						}
					}
					if strings.Join(got, "") != tt.want {
						t.Errorf("stored %q, want %q", got, tt.want)
					}
					n := float64(len(tt.poison))
					b.metric("forward_aside_records_total", n)
					b.metric("forward_aside_frames_total", 3*n)
					b.metric("forward_aside_samples_total", 100*n)
					b.metric("poller_published_count", 3*(6-n))
					b.logged("set aside", len(tt.poison))
					b.logged("reason="+tt.reason+" bytes", len(tt.poison))
					b.logged("keeps", 0)
					b.logged("count=100", len(tt.poison))
				})
			})
		}
	}
}

func TestRefusedOnceIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{})
		refused := false
		b.hub.answer = func(_ string, data []byte) (bool, error) {
			if string(data) == "b" && !refused {
				refused = true
				return false, stream.ErrRefused
			}
			return true, nil
		}
		b.append("a", "b", "c")
		b.drain()
		if got := strings.Join(b.hub.messages(), ""); got != "acbc" {
			t.Errorf("stored %q: a message that is refused once is sent again, with what follows it", got)
		}
		b.metric("forward_aside_records_total", 0)
		b.metric("poller_published_count", 9)
	})
}

func TestAllRefusedKeepsTheSpool(t *testing.T) {
	for name, answer := range map[string]error{
		"refused":    fmt.Errorf("%w: maximum bytes exceeded", stream.ErrRefused),
		"permission": fmt.Errorf("jetstream: %w", &stream.PermissionError{Operation: "publish", Subject: framesSubject}),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, Config{})
				sent := 0
				b.hub.answer = func(string, []byte) (bool, error) { sent++; return answer == nil, answer }
				want := numbered(200)
				b.append(want...)
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error)
				go func() { done <- b.f.Run(ctx) }()
				time.Sleep(time.Hour)
				if n, _, _ := b.spool.Held(); n != 200 {
					t.Errorf("%d records held, want all 200", n)
				}
				b.hub.change(func() {
					if sent > 3000 || sent < 100 {
						t.Errorf("sent %d messages within an hour", sent)
					}
				})
				b.logged("level=ERROR", 1)
				b.logged("the spool keeps", 1)
				b.metric("forward_blocked", 1)

				b.hub.change(func() { answer = nil })
				time.Sleep(31 * time.Second)
				if got := b.hub.messages(); !slices.Equal(got, want) {
					t.Errorf("%d messages stored half a minute after it was mended", len(got))
				}
				b.logged("stores messages again", 1)
				b.metric("forward_blocked", 0)
				b.metric("forward_aside_records_total", 0)
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestWaitsForTheStreamAtStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{})
		b.hub.ready = func() error {
			if b.hub.readies < 50 {
				return errors.New("no such stream")
			}
			return nil
		}
		b.append("a")
		b.drain()
		if got := b.hub.messages(); len(got) != 1 {
			t.Errorf("stored %q", got)
		}
		b.logged("no such stream", 1)
	})
}

func TestContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{})
		b.hub.delay = time.Hour
		b.append(numbered(100)...)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if err := b.f.Run(ctx); err != nil || time.Since(start) != time.Second {
			t.Errorf("Run = %v after %v", err, time.Since(start))
		}
		if n, _, _ := b.spool.Held(); n != 100 {
			t.Errorf("%d records held: what is not acknowledged stays", n)
		}
		time.Sleep(2 * time.Hour)
	})
}

func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{BytesPerSecond: 1000})
		for range 50 {
			b.append(strings.Repeat("x", 100))
		}
		start := time.Now()
		b.drain()
		if took := time.Since(start); took < 4800*time.Millisecond || took > 5200*time.Millisecond {
			t.Errorf("5000 bytes at 1000 bytes/s took %v", took)
		}
	})
}

// A memory spool that drops what is on its way must not confuse the forwarder.
func TestSpoolDropsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		small := spool.NewMemory(spool.MemoryOptions{MaxBytes: 4000})
		b := newBench(t, Config{Window: 4, Spool: small})
		b.spool = small
		b.hub.answer = func(string, []byte) (bool, error) { return false, stream.ErrDisconnected }
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- b.f.Run(ctx) }()
		for i := range 100 {
			b.appendWith(fmt.Sprintf("m%04d", i), fmt.Sprint("s", i))
			time.Sleep(100 * time.Millisecond)
		}
		b.hub.change(func() { b.hub.answer = nil })
		time.Sleep(time.Minute)
		cancel()
		<-done
		got := b.hub.messages()
		if len(got) == 0 || len(got) > 20 || got[len(got)-1] != "m0099" || !slices.IsSorted(got) {
			t.Errorf("stored %q, want the newest ones in order", got)
		}
		if n, _, _ := small.Held(); n != 0 {
			t.Errorf("%d records left", n)
		}
	})
}
