package sink

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// begin is when the tests' stream begins.
func begin() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

// step is one frame that claims the target, and what becomes of it.
type step struct {
	publisher, lane string
	epoch, seq      uint64
	position        uint64
	kind            frame.Kind
	reason          frame.EndReason
	time, stored    time.Duration // after begin
	within          string
	want            string // "newest", "repeat" or the reason of a rejection
}

const interval = 15 * time.Second

func (s step) delivery() *Delivery {
	kind := s.kind
	if kind == 0 {
		kind = frame.Scraped
	}
	return &Delivery{
		Frame: &frame.Frame{
			Kind: kind, Reason: s.reason, Position: s.position, Time: begin().Add(s.time).UnixMilli(),
			Target: &frame.Target{ID: 1, Labels: labels.FromStrings("job", "a", "instance", "b"), Interval: interval},
		},
		Publisher: s.publisher, Lane: s.lane, Epoch: s.epoch, Seq: s.seq, Stored: begin().Add(s.stored),
	}
}

func admit(o *Owners, key string, s step) string {
	v, err := o.Admit(Claim{Key: key, Within: s.within}, s.delivery())
	if reason, ok := Rejected(err); ok {
		return reason
	}
	if err != nil {
		return err.Error()
	}
	return [...]string{"", "newest", "repeat"}[v]
}

func TestOwners(t *testing.T) {
	const s = time.Second
	for name, steps := range map[string][]step{
		"order of a lane is its sequence, whatever the clock does": {
			{publisher: "A", epoch: 7, seq: 4, position: 4, time: 0, stored: 0, want: "newest"},
			{publisher: "A", epoch: 7, seq: 5, position: 5, time: -60 * s, stored: 15 * s, want: "newest"},
			{publisher: "A", epoch: 7, seq: 4, position: 4, time: 0, stored: 16 * s, want: Late},
			{publisher: "A", epoch: 7, seq: 5, position: 5, time: -60 * s, stored: 16 * s, want: "repeat"},
			{publisher: "A", epoch: 7, seq: 5, position: 6, time: -59 * s, stored: 16 * s, want: "newest"},
			{publisher: "A", epoch: 7, seq: 5, position: 5, time: -60 * s, stored: 16 * s, want: Late},
		},
		"another epoch of the lane needs a newer time": {
			{publisher: "A", epoch: 7, seq: 4, time: 0, want: "newest"},
			{publisher: "A", epoch: 8, seq: 1, time: -1, stored: s, want: Late},
			{publisher: "A", epoch: 8, seq: 2, time: s, stored: s, want: "newest"},
			{publisher: "A", epoch: 7, seq: 5, time: 0, stored: s, want: Late},
		},
		"without sequences the time is the order": {
			{publisher: "A", time: 0, want: "newest"},
			{publisher: "A", time: 0, stored: s, want: "repeat"},
			{publisher: "A", time: -s, stored: s, want: Late},
			{publisher: "A", time: s, stored: s, want: "newest"},
		},
		"another lane of the publisher takes over at once": {
			{publisher: "A", lane: "live", epoch: 7, seq: 4, time: 0, want: "newest"},
			{publisher: "A", lane: "second", epoch: 9, seq: 900, time: -15 * s, stored: s, want: Late},
			{publisher: "A", lane: "second", epoch: 9, seq: 901, time: 0, stored: s, want: "repeat"},
			{publisher: "A", lane: "second", epoch: 9, seq: 902, time: 15 * s, stored: 15 * s, want: "newest"},
			{publisher: "A", lane: "live", epoch: 7, seq: 5, time: 14 * s, stored: 16 * s, want: Late},
		},
		"end and down act only for the owner": {
			{publisher: "A", lane: "live", epoch: 7, seq: 4, time: 0, want: "newest"},
			{publisher: "A", lane: "old", epoch: 6, seq: 9, time: 5 * s, kind: frame.Down, stored: 5 * s, want: Conflict},
			{publisher: "A", lane: "old", epoch: 6, seq: 10, time: 5 * s, kind: frame.End, reason: frame.Removed, stored: 5 * s, want: Conflict},
			{publisher: "B", lane: "live", epoch: 6, seq: 10, time: 90 * s, kind: frame.End, reason: frame.Removed, stored: 90 * s, want: Conflict},
			{publisher: "A", lane: "live", epoch: 7, seq: 5, time: 95 * s, kind: frame.Down, stored: 95 * s, want: "newest"},
			{publisher: "A", lane: "live", epoch: 7, seq: 5, time: 95 * s, kind: frame.Down, stored: 95 * s, want: "repeat"},
			{publisher: "A", lane: "live", epoch: 7, seq: 6, time: 96 * s, kind: frame.End, reason: frame.Removed, stored: 96 * s, want: "newest"},
		},
		"another publisher waits for three silent intervals": {
			{publisher: "A", epoch: 7, seq: 4, time: 0, stored: 0, want: "newest"},
			{publisher: "B", epoch: 8, seq: 1, time: 30 * s, stored: 30 * s, want: Conflict},
			{publisher: "A", epoch: 7, seq: 5, time: 30 * s, stored: 31 * s, want: "newest"},
			{publisher: "B", epoch: 8, seq: 2, time: 75 * s, stored: 75 * s, want: Conflict},
			{publisher: "B", epoch: 8, seq: 3, time: 29 * s, stored: 76 * s, want: Late},
			{publisher: "B", epoch: 8, seq: 4, time: 76 * s, stored: 76 * s, want: "newest"},
			{publisher: "A", epoch: 7, seq: 6, time: 77 * s, stored: 77 * s, want: Conflict},
		},
		"another publisher goes on after the end": {
			{publisher: "A", epoch: 7, seq: 4, time: 0, want: "newest"},
			{publisher: "B", epoch: 8, seq: 1, time: s, stored: s, want: Conflict},
			{publisher: "A", epoch: 7, seq: 5, time: 2 * s, kind: frame.End, reason: frame.Removed, stored: 2 * s, want: "newest"},
			{publisher: "B", epoch: 8, seq: 2, time: s, stored: 3 * s, want: Late},
			{publisher: "B", epoch: 8, seq: 3, time: 3 * s, stored: 3 * s, want: "newest"},
		},
		"a pause is not an end": {
			{publisher: "A", epoch: 7, seq: 4, time: 0, want: "newest"},
			{publisher: "A", epoch: 7, seq: 5, time: s, kind: frame.End, reason: frame.Paused, stored: s, want: "newest"},
			{publisher: "B", epoch: 8, seq: 2, time: 3 * s, stored: 3 * s, want: Conflict},
		},
		"old frames do not bring back what has ended": {
			{publisher: "A", lane: "live", epoch: 7, seq: 4, time: 0, want: "newest"},
			{publisher: "A", lane: "live", epoch: 7, seq: 5, time: 2 * s, kind: frame.End, reason: frame.Relabelled, stored: 2 * s, want: "newest"},
			{publisher: "A", lane: "backlog", epoch: 7, seq: 1, time: -60 * s, stored: 3 * s, want: Late},
			{publisher: "A", lane: "live", epoch: 7, seq: 4, time: 0, stored: 3 * s, want: Late},
		},
		"a frame from the future is never the newest": {
			{publisher: "A", epoch: 7, seq: 1, time: 10*time.Minute + s, stored: 0, want: Future},
			{publisher: "A", epoch: 7, seq: 2, time: 10 * time.Minute, stored: 0, want: "newest"},
			{publisher: "A", epoch: 7, seq: 3, time: 15 * s, stored: 15 * s, want: "newest"},
		},
		"two targets of one publisher that name one group": {
			{publisher: "A", epoch: 7, seq: 1, within: "x", time: 0, want: "newest"},
			{publisher: "A", epoch: 7, seq: 2, within: "y", time: s, stored: s, want: Conflict},
			{publisher: "A", epoch: 7, seq: 3, within: "x", time: 15 * s, stored: 15 * s, want: "newest"},
			{publisher: "A", epoch: 7, seq: 4, within: "y", time: 60 * s, stored: 60 * s, want: "newest"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := NewOwners(0, nil)
			for i, s := range steps {
				if got := admit(o, "key", s); got != s.want {
					t.Errorf("step %d: got %s, want %s", i, got, s.want)
				}
			}
		})
	}
}

func TestOwnersForget(t *testing.T) {
	o := NewOwners(2, nil)
	at := func(key string, d time.Duration) string {
		return admit(o, key, step{publisher: "A", epoch: 1, seq: uint64(d + 1), time: d, stored: d})
	}
	for i, c := range []struct {
		key  string
		at   time.Duration
		want string
	}{
		{"a", 0, "newest"},
		{"b", 0, "newest"},
		{"c", time.Second, TooMany},
		{"b", 50 * time.Minute, "newest"},
		{"c", 59 * time.Minute, TooMany},
		{"c", 66 * time.Minute, "newest"}, // a was silent for more than an hour
		{"a", 67 * time.Minute, TooMany},
	} {
		if got := at(c.key, c.at); got != c.want {
			t.Errorf("step %d, key %s: got %s, want %s", i, c.key, got, c.want)
		}
	}
	if publisher, _, ok := o.Owner("c"); !ok || publisher != "A" || o.Len() != 2 {
		t.Errorf("owner of c is %q, %v, of %d targets", publisher, ok, o.Len())
	}
	if _, _, ok := o.Owner("a"); ok {
		t.Error("a was not forgotten")
	}
}

func TestConflictsAreLoggedSeldom(t *testing.T) {
	var log bytes.Buffer
	o := NewOwners(0, slog.New(slog.NewTextHandler(&log, nil)))
	for i := range 3600 {
		d := time.Duration(i) * time.Second
		admit(o, "a", step{publisher: "A", epoch: 1, seq: uint64(i), time: d, stored: d})
		admit(o, "a", step{publisher: "B", epoch: 1, seq: uint64(i), time: d, stored: d})
	}
	// At minutes 0, 1, 3, 7, 15 and 31.
	if n := strings.Count(log.String(), "two publishers claim one target"); n != 6 {
		t.Errorf("%d lines, want 6:\n%s", n, log.String())
	}
	if !strings.Contains(log.String(), "publisher=A from=B") {
		t.Errorf("the publishers are not named:\n%s", log.String())
	}
}

func FuzzOwners(f *testing.F) {
	f.Add([]byte("\x00\x01\x02\x03\x04\x05\x06\x07"))
	f.Add([]byte{0xff, 0x80, 0x10, 0, 0, 1, 9, 200, 3, 3, 3, 3})
	f.Fuzz(func(t *testing.T, script []byte) {
		o := NewOwners(4, nil)
		newest := map[string]*Delivery{}
		var now time.Duration
		for ; len(script) >= 4; script = script[4:] {
			now += time.Duration(script[0]%16) * time.Second
			s := step{
				publisher: string('A' + rune(script[1]&1)), lane: string('a' + rune(script[1]>>1&1)),
				epoch: uint64(script[1] >> 2 & 1), seq: uint64(script[2]), position: uint64(script[2]),
				kind: frame.Kind(script[1]>>4%3) + 1, reason: frame.Removed,
				time: now + time.Duration(int8(script[3]))*time.Second, stored: now,
			}
			key := string('k' + rune(script[1]>>3&7))
			got := admit(o, key, s)
			if o.Len() > 4 {
				t.Fatalf("%d targets are remembered", o.Len())
			}
			d := s.delivery()
			if was := newest[key]; got == "newest" && was != nil {
				sameEpoch := was.Publisher == d.Publisher && was.Lane == d.Lane && was.Epoch == d.Epoch && d.Epoch != 0
				if !sameEpoch && d.Frame.Time <= was.Frame.Time {
					t.Fatalf("a frame of %d replaced one of %d", d.Frame.Time, was.Frame.Time)
				}
			}
			if got == "newest" {
				newest[key] = d
			}
		}
	})
}
