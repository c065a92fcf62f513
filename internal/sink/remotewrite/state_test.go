package remotewrite

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

// TestRestart lets a series, a target and the end of a target happen while nobody looks.
func TestRestart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		one := schemaOf(t, ms("1", "2")...)
		f := newServer(t, 2)
		o := Options{StateDirectory: t.TempDir(), Schema: func(id frame.SchemaID) *frame.Schema {
			if id == one.ID {
				return one
			}
			return nil
		}}
		w := newWorld(t, f, o)
		a, b, c := site("job", "a"), site("job", "b"), site("job", "c")
		start := time.Now().UnixMilli()
		at := func(n int64) float64 { return float64(start + n) }
		for _, g := range []*frame.Target{a, b, c} {
			w.give(g, scraped(one, start, 1, 2))
		}
		w.settle(time.Second)
		end := &frame.Frame{Kind: frame.End, Reason: frame.Removed, Time: start + 1000}
		w.give(c, end)
		time.Sleep(time.Second)
		w.stopped()

		w = newWorld(t, f, o)
		defer w.stopped()
		w.seq = 10
		again := func(d *sink.Delivery) { d.Repeated = true }
		// The last scrape once more, then one without a series, a failed one, and the end that was given back.
		w.give(a, scraped(one, start, 1, 2), again)
		w.give(a, scraped(schemaOf(t, ms("2")...), start+15000, 3))
		w.give(b, &frame.Frame{Kind: frame.Down, Time: start + 15000})
		w.give(c, &frame.Frame{Kind: frame.End, Reason: frame.Removed, Time: start + 1000}, again)
		w.settle(time.Minute)
		w.has(m("1"), at(0), 1, at(15000), stale)
		w.has(m("2"), at(0), 2, at(15000), 3)
		w.has(up(), at(0), 1, at(15000), 1)
		w.has([]string{"__name__", "m", "x", "1", "job", "b"}, at(0), 1, at(15000), stale)
		w.has([]string{"__name__", "m", "x", "2", "job", "c"}, at(0), 2, at(15000), stale)
		w.has([]string{"__name__", "up", "job", "c"}, at(0), 1, at(15000), stale)
	})
}

// TestRestartWithBacklog stops while the server is away: what the frames that are given back say must not count as noted.
func TestRestartWithBacklog(t *testing.T) {
	bubble(t, func(t *testing.T) {
		one, two := schemaOf(t, ms("1", "2")...), schemaOf(t, ms("2")...)
		f := newServer(t, 2)
		o := Options{StateDirectory: t.TempDir(), Schema: func(id frame.SchemaID) *frame.Schema {
			return map[frame.SchemaID]*frame.Schema{one.ID: one, two.ID: two}[id]
		}}
		w := newWorld(t, f, o)
		a := site("job", "a")
		start := time.Now().UnixMilli()
		at := func(n int64) float64 { return float64(start + n) }
		w.give(a, scraped(one, start, 1, 2))
		w.settle(time.Second)
		f.mu.Lock()
		f.answer = func(int, *http.Request) *http.Response { return reply(http.StatusBadGateway, "", -1) }
		f.mu.Unlock()
		w.give(a, scraped(two, start+1000, 2))
		w.give(a, &frame.Frame{Kind: frame.Down, Time: start + 2000})
		time.Sleep(time.Minute)
		w.stopped()
		f.answer = nil

		w = newWorld(t, f, o)
		defer w.stopped()
		again := func(d *sink.Delivery) { d.Repeated = true }
		w.seq = 1
		w.give(a, scraped(two, start+1000, 2), again)
		w.give(a, &frame.Frame{Kind: frame.Down, Time: start + 2000}, again)
		w.settle(time.Second)
		w.has(m("1"), at(0), 1, at(1000), stale)
		w.has(m("2"), at(0), 2, at(1000), 2, at(2000), stale)
	})
}

func TestDamagedState(t *testing.T) {
	for _, text := range []string{"", "{", "null\n", `{"labels":{"":""},"known":true,"live":true,"schema":"xx"}` + "\n",
		`{"labels":{"job":"a"},"known":true,"live":true,"schema":"00","untracked":[1,2,3,4]}` + "\n{\"labels\": 5}\n"} {
		bubble(t, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "remote_write-test.targets"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			w := newWorld(t, newServer(t, 2), Options{StateDirectory: dir, Schema: func(frame.SchemaID) *frame.Schema { return nil }})
			defer w.stopped()
			now := time.Now().UnixMilli()
			w.give(site("job", "a"), scraped(schemaOf(t, ms("1")...), now, 1))
			w.give(site("job", "a"), &frame.Frame{Kind: frame.Down, Time: now + 1})
			w.settle(time.Second)
			w.has(m("1"), float64(now), 1, float64(now+1), stale)
		})
	}
}

func FuzzState(f *testing.F) {
	f.Add(`{"labels":{"job":"a"},"publisher":"p","schema":"00112233445566778899aabbccddeeff","live":true,"known":true,"time":5,"interval":1000}`)
	f.Fuzz(func(t *testing.T, text string) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "x.targets"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := New(Options{URL: "http://a", Name: "x", StateDirectory: dir})
		if err != nil {
			t.Fatal(err)
		}
		for key, g := range s.targets {
			if key == "" || g.raw.IsEmpty() || g.interval <= 0 {
				t.Errorf("target %q: %+v", key, g)
			}
			s.recall(g)
		}
	})
}
