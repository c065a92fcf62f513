package forward

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/choria-io/prometheus-streams/internal/spool"
	"github.com/choria-io/prometheus-streams/internal/stream"
)

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
