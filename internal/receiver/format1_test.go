package receiver

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

// old makes a message of publisher A as version 1.0 did, scraped so many seconds from now.
func old(t *testing.T, instance string, after int, body string) []byte {
	t.Helper()
	msg, err := frame.AppendFormat1(nil, &frame.Format1{
		Job: "j", Instance: instance, Time: time.Now().Unix() + int64(after), Publisher: "A", Body: []byte(body),
	})
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

// shown are the samples of a delivery, in the order of the schema.
func shown(d sink.Delivery) string {
	f := d.Frame
	if f.Kind != frame.Scraped {
		return "down"
	}
	var out []string
	b := labels.NewBuilder(labels.EmptyLabels())
	for i := range f.Schema.Series {
		if f.Column.Absent.Has(i) {
			continue
		}
		text := fmt.Sprintf("%s %v", f.Schema.SeriesLabels(i, labels.EmptyLabels(), b), f.Column.Values[i])
		if f.Column.Timestamps != nil && f.Column.Timestamps[i] != frame.NoTimestamp {
			text += fmt.Sprintf(" @%d", f.Column.Timestamps[i])
		}
		out = append(out, text)
	}
	return strings.Join(out, "; ")
}

func TestFormat1Bodies(t *testing.T) {
	report := func(body string, up bool) string {
		return string(frame.AppendReport([]byte(body), up, frame.Report{Duration: time.Second, Scraped: 7}))
	}
	for name, c := range map[string]struct{ body, want, reason string }{
		"plain":             {"a 1\nb{x=\"y\"} 2\n", `{__name__="a"} 1; {__name__="b", x="y"} 2`, ""},
		"CRLF":              {"# TYPE a counter\r\na 1\r\nb 2\r\n", `{__name__="a"} 1; {__name__="b"} 2`, ""},
		"no final newline":  {"a 1\nb 2", `{__name__="a"} 1; {__name__="b"} 2`, ""},
		"timestamps":        {"a 1 946684700000\n", `{__name__="a"} 1 @946684700000`, ""},
		"report":            {report("a 1\n", true), `{__name__="a"} 1`, ""},
		"report, CRLF":      {report("a 1\r\n", true), `{__name__="a"} 1`, ""},
		"failed":            {report("", false), "down", ""},
		"failed, with more": {report("a 1\n", false), "", "unparsable"},
		"its own up":        {"up 0\na 1\n", `{__name__="up"} 0; {__name__="a"} 1`, ""},
		"empty":             {"", "", ""},
		"own job label":     {"a{job=\"x\",instance=\"y\"} 1\n", `{__name__="a", exported_instance="y", exported_job="x"} 1`, ""},
		"OpenMetrics": {"# TYPE a counter\na_total 1 # {trace_id=\"x\"} 0.5\n# EOF\n",
			`{__name__="a_total"} 1`, ""},
		"OpenMetrics, report": {report("# TYPE a counter\na_total 1 # {trace_id=\"x\"} 0.5\n# EOF\n", true), `{__name__="a_total"} 1`, ""},
		"HTML":                {"<html><body>Not here</body></html>\n", "", "unparsable"},
		"good, then junk":     {"a 1\nb 2\n!!!\n", "", "unparsable"},
		"cut in a line":       {"a 1\nb{x=\"", "", "unparsable"},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, w *world, _ *site) {
				w.start()
				w.send("A", old(t, "i", 0, c.body))
				w.stop()
				w.wantAcked(1)
				if c.reason != "" {
					w.wantMetric(1, "dropped_frames_total", "reason", c.reason, "publisher", "A")
					if len(w.sink.got) > 0 {
						t.Errorf("delivered %s", shown(w.sink.got[0]))
					}
					return
				}
				w.wantMetric(0, "dropped_frames_total")
				if len(w.sink.got) != 1 || shown(w.sink.got[0]) != c.want {
					t.Fatalf("delivered %v, want %s", w.sink.got, c.want)
				}
				d := w.sink.got[0]
				if want := `{instance="i", job="j"}`; d.Publisher != "A" || d.Frame.Target.Labels.String() != want || d.Frame.Time != 946684800000 {
					t.Errorf("delivered as %q %s of %d", d.Publisher, d.Frame.Target.Labels, d.Frame.Time)
				}
				if strings.Contains(name, "report") && (d.Frame.Report.Scraped != 7 || d.Frame.Report.Duration != time.Second) {
					t.Errorf("report %+v", d.Frame.Report)
				}
			})
		})
	}
}

func TestFormat1Junk(t *testing.T) {
	each(t, func(t *testing.T, w *world, _ *site) {
		var bomb bytes.Buffer
		z := gzip.NewWriter(&bomb)
		_, _ = z.Write(make([]byte, 65<<20))
		_ = z.Close()
		now := time.Now().Unix()
		w.start()
		for _, c := range []struct{ msg, reason string }{
			{`{"job":`, "malformed"},
			{fmt.Sprintf(`{"job":"j","time":%d,"publisher":"A","Scrape":"!"}`, now), "malformed"},
			{fmt.Sprintf(`{"job":"j","time":%d,"publisher":"A","Scrape":"YWJj"}`, now), "malformed"},
			{fmt.Sprintf(`{"job":"j","time":%d,"publisher":"A","Scrape":"%s"}`, now, base64.StdEncoding.EncodeToString(bomb.Bytes())), "too_large"},
			{`{"job":"j","publisher":"A","Scrape":"YWJj"}`, "no_time"},
			{strings.Replace(string(old(t, "i", 0, "a 1\n")), `"A"`, `"B"`, 1), "wrong_publisher"},
			{string(old(t, "i", 3600, "a 1\n")), "future"},
		} {
			before := w.metric("dropped_frames_total", "reason", c.reason)
			seq := w.send("A", []byte(c.msg))
			if got := w.metric("dropped_frames_total", "reason", c.reason); got != before+1 || w.acked[seq] != 1 {
				t.Errorf("%.60s: counted %v times as %s, acknowledged %d times", c.msg, got-before, c.reason, w.acked[seq])
			}
		}
		w.send("A", bytes.Replace(old(t, "i", 0, "a 1\n"), []byte(`"job"`), []byte(`"more":{},"JOB"`), 1))
		w.stop()
		w.sink.want(t, "A/1")
	})
}

// What comes late, twice, or twice within a second.
func TestFormat1Order(t *testing.T) {
	each(t, func(t *testing.T, w *world, _ *site) {
		w.start()
		first, second, third := old(t, "i", 0, "a 1\n"), old(t, "i", 10, "a 2\n"), old(t, "i", 20, "a 3\n")
		w.send("A", first)
		w.send("A", third)
		w.send("A", second) // late
		w.send("A", first)  // again
		w.send("A", third)  // again
		w.send("A", old(t, "i", 20, "a 4\n"))
		w.send("A", old(t, "i", 20, "a 5\n"))
		w.send("A", old(t, "other", 5, "a 6\n"))
		w.stop()
		w.sink.want(t, "A/1", "A/3", "A/4", "A/5", "A/6")
		w.wantAcked(1, 2, 3, 4, 5, 6, 7, 8)
		w.wantMetric(1, "dropped_frames_total", "reason", "late", "publisher", "A")
		w.wantMetric(2, "duplicate_bundles_total", "publisher", "A")
		last := int64(0)
		for _, d := range w.sink.got[:4] {
			if d.Frame.Time <= last {
				t.Errorf("time %d after %d", d.Frame.Time, last)
			}
			last = d.Frame.Time
		}
	})
}

// A message that is still with the sink when it comes again is one message; the newer right to acknowledge it counts.
func TestFormat1Redelivered(t *testing.T) {
	each(t, func(t *testing.T, w *world, _ *site) {
		var done func(error)
		w.sink.verdict = func(_ sink.Delivery, d func(error)) { done = d }
		w.start()
		seq := w.send("A", old(t, "i", 0, "a 1\n"))
		w.hand(seq)
		w.wantAcked()
		done(nil)
		synctest.Wait()
		w.hand(seq) // the acknowledgement was lost
		w.stop()
		w.sink.want(t, "A/1")
		if w.acked[seq] != 2 {
			t.Errorf("acknowledged %d times", w.acked[seq])
		}
		w.wantMetric(1, "duplicate_bundles_total", "publisher", "A")
	})
}

// The interval, which the messages do not tell, is the median of what was seen.
func TestFormat1Interval(t *testing.T) {
	each(t, func(t *testing.T, w *world, _ *site) {
		w.start()
		for _, after := range []int{0, 15, 30, 200, 215, 230} {
			w.send("A", old(t, "i", after, fmt.Sprintf("a %d\n", after)))
		}
		w.stop()
		first, last := w.sink.got[0].Frame, w.sink.got[5].Frame
		if first.Target.Interval != time.Minute || last.Target.Interval != 15*time.Second {
			t.Errorf("interval %s at first, %s at last", first.Target.Interval, last.Target.Interval)
		}
		if first.Schema != last.Schema || last.Report.Added != 0 {
			t.Error("the same series have two schemas, or are new each time")
		}
	})
}

func TestFormat1Captured(t *testing.T) {
	files, err := filepath.Glob("../frame/testdata/format1/*.json")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start()
		for _, f := range files {
			msg, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			seq := w.store("DC1", msg)
			w.messages[seq-1].Stored = time.Unix(1795374950, 0)
			w.hand(seq)
		}
		w.stop()
		if len(w.sink.got) != len(files) {
			t.Errorf("%d of %d captured messages were delivered", len(w.sink.got), len(files))
		}
		w.wantMetric(0, "dropped_frames_total")
	})
}
