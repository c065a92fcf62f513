package forward

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/choria-io/prometheus-streams/internal/stream"
)

// takes makes the hub take messages up to a size; told says whether its errors name the limit.
func (h *hub) takes(limit int, told bool) {
	h.answer = func(subject string, data []byte) (bool, error) {
		if len(data) <= limit {
			return true, nil
		}
		e := &stream.TooLargeError{Size: int64(len(data))}
		if told {
			e.Limit = int64(limit)
		}
		return false, fmt.Errorf("publishing on %s: %w", subject, e)
	}
}

// whole joins what a hub stored on a subject, each message once, in the order in which they were first whole.
func (h *hub) whole(t *testing.T) (got []string) {
	t.Helper()
	var j stream.Joiner
	seen := map[string]bool{}
	for _, m := range h.messages() {
		whole, err := j.Add(&stream.Message{Subject: "s", Data: []byte(m)})
		if err != nil {
			t.Fatal(err)
		}
		if whole != nil && !seen[string(whole.Data)] {
			seen[string(whole.Data)] = true
			got = append(got, string(whole.Data[:1]))
		}
	}
	return got
}

func TestLargeMessagesGoInParts(t *testing.T) {
	for _, told := range []bool{true, false} {
		for _, window := range []int{1, 2, 64} {
			t.Run(fmt.Sprintf("limit told %t, window %d", told, window), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := newBench(t, Config{Window: window})
					b.hub.takes(2000, told)
					for _, m := range []string{"a", "b", "c", "d", "e"} {
						size := 10
						if m == "b" || m == "d" {
							size = 9000
						}
						b.append(strings.Repeat(m, size))
					}
					b.drain()
					// b comes again from its start, so what passed meanwhile comes before it: the receiver's lane sorts that.
					if got := b.hub.whole(t); len(got) != 5 {
						t.Errorf("whole at the stream: %v", got)
					}
					b.metric("forward_aside_records_total", 0)
					b.metric("poller_published_count", 15)
					b.logged("sent in parts", map[bool]int{true: 1, false: 3}[told]) // 4500, 2250, 1125
				})
			})
		}
	}
}

func TestPartsAreSentAgainTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{})
		b.hub.takes(2000, true)
		limited, lost := b.hub.answer, 3
		b.hub.answer = func(subject string, data []byte) (bool, error) {
			if p, err := stream.ParsePart(data); err == nil && p.Number == 3 && lost > 0 {
				lost--
				return lost == 1, stream.ErrDisconnected // stored or not, nobody knows
			}
			return limited(subject, data)
		}
		b.append(strings.Repeat("a", 9000), strings.Repeat("b", 9000))
		b.drain()
		if got := b.hub.whole(t); len(got) != 2 {
			t.Errorf("whole at the stream: %v", got)
		}
		b.metric("poller_published_count", 6)
	})
}

// Below the smallest part nothing of use can be sent: all of it waits until the hub takes more, schemas too.
func TestNothingFitsAnyMore(t *testing.T) {
	for _, told := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, Config{})
			b.hub.takes(100, told)
			b.append("x", strings.Repeat("a", 9000), "y")
			b.appendWith("z", strings.Repeat("i", 5000))
			b.start()
			time.Sleep(time.Hour)
			b.metric("forward_aside_records_total", 0)
			b.metric("forward_aside_schemas_total", 0)
			b.metric("forward_blocked", 1)
			b.hub.change(func() { b.hub.takes(2000, told) })
			time.Sleep(time.Minute)
			if got := b.hub.whole(t); len(got) != 4 {
				t.Errorf("whole at the stream: %v", got)
			}
			b.metric("forward_blocked", 0)
		})
	}
}

func TestLargeSchemasGoInParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{})
		b.hub.takes(2000, true)
		id := strings.Repeat("i", 5000) // makes a large schema, see appendWith
		b.appendWith("m", id)
		b.drain()
		var j stream.Joiner
		for i, s := range b.hub.stored[:3] {
			subject, data, _ := strings.Cut(s, " ")
			if want := strings.TrimPrefix(stream.SchemaPart(schemasSubject+id, i+1), "t."); subject != want {
				t.Fatalf("part %d is on …%s", i+1, subject[len(subject)-10:])
			}
			whole, err := j.Add(&stream.Message{Subject: "s", Data: []byte(data)})
			if err != nil || (whole != nil) != (i == 2) || whole != nil && string(whole.Data) != "schema "+id {
				t.Fatalf("part %d: %v, %v", i+1, whole, err)
			}
		}
		if len(b.hub.stored) != 4 {
			t.Errorf("%d messages", len(b.hub.stored))
		}
		b.metric("forward_aside_schemas_total", 0)
		b.metric("forward_stored_schemas_total", 1)
	})
}

// All schemas of one batch may be too large, and the limit is known after the first.
func TestManyLargeSchemas(t *testing.T) {
	for _, told := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, Config{})
			b.hub.takes(2000, told)
			b.appendWith("m", strings.Repeat("i", 5000), strings.Repeat("j", 5000), strings.Repeat("k", 1990))
			b.drain()
			b.metric("forward_aside_schemas_total", 0)
			if got := b.hub.whole(t); len(got) != 1 {
				t.Errorf("whole at the stream: %v", got)
			}
		})
	}
}
