package remotewrite

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"

	"github.com/choria-io/prometheus-streams/internal/exposition"
	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

// lateFiles are the finished files of a directory by name.
func lateFiles(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]string)
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = string(data)
	}
	return out
}

// seconds is a time as the files have it.
func seconds(ms int64) string { return string(appendSeconds(nil, ms)) }

// Frames that the server refuses whole, one that is only partly too old, and one that comes late by another lane: all of
// it is in files, and counted as refused.
func TestLateFiles(t *testing.T) {
	each(t, func(t *testing.T, versions ...int) {
		dir := t.TempDir()
		f := newServer(t, versions...)
		w := newWorld(t, f, Options{LateDirectory: dir, SendNativeHistograms: true, Protocol: fmt.Sprint(versions[0])})
		now := time.Now().UnixMilli()
		s := schemaOf(t, append(ms("1", "2"), labels.FromStrings("__name__", "a.b", "lé", "x\"\\\ny"), labels.FromStrings("__name__", "native"))...)
		g := site("job", "a")
		w.give(g, scraped(s, now, 1, 2, 3, 4))
		w.settle(time.Second)
		// The clock at the edge was set back, within one lane.
		back := scraped(s, now-60000, 10, math.Inf(1), 1e-300, 0)
		back.Column.Histograms = []frame.Histogram{{Row: 3, Int: tsdbutil.GenerateTestHistogram(1)}}
		back.Column.Timestamps = []int64{frame.NoTimestamp, now - 70001, frame.NoTimestamp, frame.NoTimestamp}
		w.give(g, back, func(d *sink.Delivery) { d.Publisher = "DC1" })
		if got := w.reasons(time.Minute); !slices.Equal(got, []string{outOfOrder}) {
			t.Fatalf("verdict %v", got)
		}
		// An older one by another lane.
		w.give(g, scraped(s, now-90000, 5, 6, 7, 8), func(d *sink.Delivery) { d.Lane = "backlog" })
		if got := w.reasons(time.Minute); !slices.Equal(got, []string{sink.Late}) {
			t.Fatalf("verdict %v", got)
		}
		w.stopped()
		files := lateFiles(t, dir)
		if len(files) != 2 {
			t.Fatalf("files %v", files)
		}
		all := ""
		for name, text := range files {
			if !strings.HasPrefix(name, "remote_write-test.DC1.") || !strings.HasSuffix(name, ".om") || !strings.HasSuffix(text, "\n# EOF\n") {
				t.Errorf("file %q: %s", name, text)
			}
			all += text
			checkReadable(t, text, now-60000, now-70001, now-90000)
		}
		for _, line := range []string{
			`m{job="a",x="1"} 10 ` + seconds(now-60000),
			`m{job="a",x="2"} +Inf ` + seconds(now-70001),
			`{"a.b",job="a","lé"="x\"\\\ny"} 1e-300 ` + seconds(now-60000),
			`up{job="a"} 1 ` + seconds(now-60000),
			`m{job="a",x="1"} 5 ` + seconds(now-90000),
			`native{job="a"} 8 ` + seconds(now-90000),
			`scrape_duration_seconds{job="a"} 0.012 ` + seconds(now-90000),
		} {
			if strings.Count(all, line+"\n") != 1 {
				t.Errorf("not once in the files: %s\n%s", line, all)
			}
		}
		if n := strings.Count(all, "\n"); n != 8+9+2 {
			t.Errorf("%d lines", n)
		}
		if got := w.metric("late_samples_total", "publisher", "DC1"); got != 17 {
			t.Errorf("%v late samples", got)
		}
		if got := w.metric("late_lost_samples_total", "reason", lostHistogram); got != 1 {
			t.Errorf("%v late histograms are lost", got)
		}
	})
}

// checkReadable reads a file that has each series once as Prometheus reads OpenMetrics, and looks at its times.
func checkReadable(t *testing.T, text string, times ...int64) {
	t.Helper()
	layout := exposition.NewLayout(exposition.Rules{HonorLabels: true, HonorTimestamps: true}, exposition.NewSchemas())
	got, err := layout.Parse([]byte(text), "application/openmetrics-text; version=1.0.0; charset=utf-8")
	if err != nil {
		t.Errorf("%v\n%s", err, text)
		return
	}
	if lines := strings.Count(text, "\n") - 1; got.Scraped != lines || len(got.Column.Timestamps) != lines {
		t.Errorf("%d samples with %d timestamps in %d lines", got.Scraped, len(got.Column.Timestamps), lines)
	}
	for i, ms := range got.Column.Timestamps {
		if !slices.Contains(times, ms) {
			t.Errorf("series %s at %d, want one of %v", got.Schema.Series[i].Labels, ms, times)
		}
	}
}

// With late files, a request of which only a part was too old is sent again by frame: the file has that frame alone.
func TestLateFilesOfAPart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		f := newServer(t, 2)
		f.refuse = func(l labels.Labels) string {
			if l.Get("job") == "b" && l.Get("x") == "1" {
				return "sample is too old"
			}
			return ""
		}
		w := newWorld(t, f, Options{LateDirectory: dir})
		s := schemaOf(t, ms("1", "2")...)
		now := time.Now().UnixMilli()
		for _, job := range []string{"a", "b", "c"} {
			w.give(site("job", job), scraped(s, now, 1, 2))
		}
		w.settle(time.Minute)
		w.stopped()
		for name, text := range lateFiles(t, dir) {
			if n := strings.Count(text, `job="b"`); n != 7 || strings.Contains(text, `job="a"`) || strings.Contains(text, `job="c"`) {
				t.Errorf("file %s: %s", name, text)
			}
		}
		if got := w.metric("dropped_samples_total", "reason", tooOld, "publisher", "DC1"); got != 1 {
			t.Errorf("%v samples dropped", got)
		}
		if got := w.metric("late_samples_total", "publisher", "DC1"); got != 7 {
			t.Errorf("%v late samples", got)
		}
	})
}

// What was refused once and comes again after a kill is not written once more.
func TestLateFilesHaveNoRepeats(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		w := newWorld(t, newServer(t, 1), Options{LateDirectory: dir, Protocol: V1})
		s := schemaOf(t, ms("1")...)
		now := time.Now().UnixMilli()
		w.give(site("job", "a"), scraped(s, now, 1))
		w.settle(time.Second)
		w.give(site("job", "a"), scraped(s, now-1000, 1), func(d *sink.Delivery) { d.Repeated = true })
		w.settle(time.Minute)
		w.stopped()
		if files := lateFiles(t, dir); len(files) != 0 {
			t.Errorf("files %v", files)
		}
	})
}

// line is what a store is given.
func (s *lateStore) line(publisher, series string, ms int64, value float64) error {
	text := series + " " + strconv.FormatFloat(value, 'g', -1, 64) + " " + seconds(ms) + "\n"
	return s.add(publisher, []byte(text), len(series), ms, math.Float64bits(value))
}

func TestLateStore(t *testing.T) {
	dir := t.TempDir()
	open := func(most int64) *lateStore {
		s, err := openLateStore(dir, "sink", most)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open(0)
	check := func(got, want error) {
		t.Helper()
		if !errors.Is(got, want) {
			t.Errorf("error %v, want %v", got, want)
		}
	}
	check(s.line("a/b c", "m", 1000, 1), nil)
	check(s.line("a/b c", "m", 2000, 1), nil)
	check(s.line("a/b c", "m", 2000, 1), errLateRepeat)
	check(s.line("a/b c", "m", 2000, 2), errLateDuplicate)
	check(s.line("a/b c", "n", 1000, 1), nil)
	check(s.line("a/b c", "m", 1500, 1), nil) // begins a second file
	if failed := s.sync(); len(failed) != 0 {
		t.Errorf("failed %v", failed)
	}
	// The process is killed here: a file without an end, and a line that is cut off.
	left, _ := filepath.Glob(filepath.Join(dir, "*.part"))
	if len(left) != 1 || !strings.Contains(left[0], "sink.a%2Fb%20c.") {
		t.Fatalf("unfinished files %v", left)
	}
	data, _ := os.ReadFile(left[0])
	if err := os.WriteFile(left[0], append(data, "m 1 1.6"...), 0o600); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "other.x.1.om.part")
	if err := os.WriteFile(other, []byte("m 1 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s = open(3 * lateLeast)
	if s.total != 2*lateLeast {
		t.Errorf("%d bytes are counted", s.total)
	}
	var texts []string
	for name, text := range lateFiles(t, dir) {
		if strings.HasPrefix(name, "sink.") {
			texts = append(texts, text)
		}
	}
	slices.Sort(texts)
	if want := []string{"m 1 1\nm 1 2\nn 1 1\n# EOF\n", "m 1 1.5\n# EOF\n"}; !slices.Equal(texts, want) {
		t.Errorf("files %q, want %q", texts, want)
	}
	if _, err := os.Stat(other); err != nil {
		t.Errorf("another sink's file: %v", err)
	}
	// The limit, and room again once files were taken away.
	check(s.line("a", "m", 1, 1), nil)
	check(s.line("b", "m", 1, 1), errLateFull)
	for name := range lateFiles(t, dir) {
		if strings.HasSuffix(name, ".om") {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	check(s.line("b", "m", 1, 1), errLateFull)
	s.scanned = time.Time{}
	check(s.line("b", "m", 1, 1), nil)
	if err := s.close(time.Time{}); err != nil || len(s.files) != 0 {
		t.Errorf("%v, %d files are open", err, len(s.files))
	}
}

// Files are bounded in size, and in the number that is written at a time.
func TestLateStoreRotates(t *testing.T) {
	dir := t.TempDir()
	s, err := openLateStore(dir, "sink", 0)
	if err != nil {
		t.Fatal(err)
	}
	series := "m{x=\"" + strings.Repeat("x", 64<<10) + "\"}"
	for i := range 2 * lateFileSize / (64 << 10) {
		if err := s.line("p", series, int64(i), 1); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 2 * lateOpen {
		if err := s.line(fmt.Sprint("p", i), "m", 1, 1); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.files) != lateOpen {
		t.Errorf("%d files are open", len(s.files))
	}
	if err := s.close(time.Time{}); err != nil {
		t.Fatal(err)
	}
	large := 0
	for name, text := range lateFiles(t, dir) {
		if len(text) > lateFileSize+len(lateEnd) || !strings.HasSuffix(text, lateEnd) {
			t.Errorf("file %s has %d bytes", name, len(text))
		}
		if strings.HasPrefix(name, "sink.p.") {
			large++
		}
	}
	if large != 3 {
		t.Errorf("%d files of one publisher", large)
	}
}

// A disk that takes nothing costs the late samples, not the sink.
func TestLateDiskFails(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		f := newServer(t, 1)
		w := newWorld(t, f, Options{LateDirectory: dir, Protocol: V1})
		defer w.stopped()
		s := schemaOf(t, ms("1")...)
		now := time.Now().UnixMilli()
		w.give(site("job", "a"), scraped(s, now, 1))
		w.settle(time.Second)
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		w.give(site("job", "a"), scraped(s, now-1000, 1))
		if got := w.reasons(time.Minute); !slices.Equal(got, []string{outOfOrder}) {
			t.Errorf("verdict %v", got)
		}
		if got := w.metric("late_lost_samples_total", "reason", lostDisk, "publisher", "DC1"); got != 6 {
			t.Errorf("%v late samples are lost", got)
		}
		w.give(site("job", "a"), scraped(s, now+1000, 2))
		w.settle(time.Second)
		w.has(m("1"), float64(now), 1, float64(now+1000), 2)
	})
}

func TestLateDirectoryCannotBeMade(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Options{URL: "http://a", LateDirectory: file, HTTPClient: &http.Client{}}); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("error %v", err)
	}
}

func TestEncodePublisher(t *testing.T) {
	for name, want := range map[string]string{
		"DC1": "DC1", "a.b/c": "a%2Eb%2Fc", "../x": "%2E%2E%2Fx", "é": "%C3%A9", "": "",
	} {
		if got := encodePublisher(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
	a, b := encodePublisher(strings.Repeat("x", 300)+"a"), encodePublisher(strings.Repeat("x", 300)+"b")
	if a == b || len(a) > longestPublisher+17 {
		t.Errorf("long names: %q, %q", a, b)
	}
}
