package forward

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/choria-io/prometheus-streams/internal/stream"
)

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
		"refused":    fmt.Errorf("%w: wrong last sequence", stream.ErrRefused),
		"full":       fmt.Errorf("%w: maximum bytes exceeded", stream.ErrFull),
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
