package pushgateway

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// restarted runs two sinks one after the other over one directory and one gateway.
func restarted(t *testing.T, o Options, first, second func(*testing.T, *rig)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		o.StateDirectory = dir
		gw := newFake()
		r := newRig(t, gw, o)
		first(t, r)
		r.stop()
		r = newRig(t, gw, o)
		second(t, r)
		r.stop()
	})
}

func TestRestart(t *testing.T) {
	kept, gone := newFeed(t, "job", "a", "instance", "kept"), newFeed(t, "job", "a", "instance", "gone")
	paused, ended := newFeed(t, "job", "a", "instance", "paused"), newFeed(t, "job", "a", "instance", "ended/1")
	before := newFeed(t, "job", "a", "instance", "before")
	restarted(t, Options{},
		func(t *testing.T, r *rig) {
			for i, f := range []*feed{kept, gone, paused, ended, before} {
				r.deliver(fmt.Sprint(i), f.scrape(gauge("x", 1), gauge("y", 1, "job", "split-"+f.target.Labels.Get("instance"))))
				r.want(fmt.Sprint(i), "ok")
			}
			time.Sleep(time.Second)
			r.deliver("pause", paused.end(frame.Paused))
			r.deliver("before", before.end(frame.Removed))
			if err := r.gw.store("job=cron,instance=x", textType, "z 1\n", true); err != nil {
				t.Fatal(err)
			}
		},
		func(t *testing.T, r *rig) {
			r.wantMetric(8, "pushgateway_groups")
			r.deliver("end", ended.end(frame.Removed)) // it stood in the stream while the receiver was down
			r.want("end", "ok")
			if r.gw.has("job=a,instance=ended/1") || r.gw.has("job=split-ended/1,instance=ended/1") {
				t.Errorf("the end after a restart deletes nothing: %q", r.gw.names())
			}
			for i := range 40 {
				r.deliver(fmt.Sprint("k", i), kept.scrape(gauge("x", 1)))
				if i == 29 && !r.gw.has("job=a,instance=gone") {
					t.Error("deleted before stale_after")
				}
				time.Sleep(10 * time.Second)
			}
			synctest.Wait()
			want := []string{"job=a,instance=kept", "job=a,instance=paused", "job=cron,instance=x", "job=split-paused,instance=paused"}
			if got := r.gw.names(); !slices.Equal(got, want) {
				t.Errorf("groups %q, want %q", got, want)
			}
		})
}

// TestRestartOnOtherGateway: groups of another gateway are none of ours.
func TestRestartOnOtherGateway(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, newFake(), Options{StateDirectory: dir})
		r.deliver("1", newFeed(t, "job", "a", "instance", "b:1").scrape(gauge("x", 1)))
		r.stop()
		r = newRig(t, newFake(), Options{StateDirectory: dir, URL: "http://other:9091"})
		r.wantMetric(0, "pushgateway_groups")
		if !strings.Contains(r.log.String(), "another Push Gateway") || !strings.Contains(r.log.String(), "count=1") {
			t.Errorf("log: %s", r.log)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(r.gw.requests()) != 0 {
			t.Errorf("requests %q", r.gw.requests())
		}
		r.stop()
	})
}

// TestNotedBeforePushed: a push that is cut off by a crash leaves nothing that is not remembered.
func TestNotedBeforePushed(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, newFake(), Options{StateDirectory: dir})
		r.gw.setBefore(hanging)
		r.deliver("1", newFeed(t, "job", "a", "instance", "b:1").scrape(gauge("x", 1)))
		b, err := os.ReadFile(filepath.Join(dir, stateFile)) // as a crash would leave it
		if err != nil || !bytes.Contains(b, []byte("/metrics/job/a/instance/b:1")) {
			t.Errorf("the file has %q, %v", b, err)
		}
		r.stop()
	})
}

func TestStateUnwritable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Options{URL: "http://g", StateDirectory: file}); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("error %v, want one that names the directory", err)
	}
	// A disk that breaks later stops nothing.
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, newFake(), Options{StateDirectory: dir})
		r.sink.state.file.Close()
		f := newFeed(t, "job", "a", "instance", "b:1")
		r.deliver("1", f.scrape(gauge("x", 1)))
		r.want("1", "ok")
		r.wantMetric(1, "pushgateway_state_errors_total")
		if !strings.Contains(r.log.String(), "not remembered") {
			t.Errorf("log: %s", r.log)
		}
		if err := r.sink.state.rewrite(); err != nil {
			t.Fatal(err)
		}
		r.stop()
		b, _ := os.ReadFile(filepath.Join(dir, stateFile))
		if !bytes.Contains(b, []byte("instance/b:1")) {
			t.Errorf("after the disk came back the file has %q", b)
		}
	})
}

func lines(l ...stateLine) []byte {
	var b []byte
	for _, l := range l {
		b = appendLine(b, l)
	}
	return b
}

const someTarget = "00112233445566778899aabbccddeeff"

func TestReadState(t *testing.T) {
	url := stateLine{URL: "http://g"}
	a := stateLine{Group: "/metrics/job/a/instance/1", record: record{someTarget, 10000, false}}
	b := stateLine{Group: "/metrics/job/b/instance@base64/=", record: record{someTarget, 10000, true}}
	dropA := stateLine{Group: a.Group}
	broken := lines(b)
	broken[12] ^= 1
	for _, tc := range []struct {
		name string
		data []byte
		want []string
		bad  int
	}{
		{"empty", nil, nil, 0},
		{"two", lines(url, a, b), []string{a.Group, b.Group}, 0},
		{"dropped", lines(url, a, b, dropA), []string{b.Group}, 0},
		{"again", lines(url, a, dropA, a), []string{a.Group}, 0},
		{"broken line", slices.Concat(lines(url), broken, lines(a)), []string{a.Group}, 1},
		{"torn end", lines(url, a, b)[:len(lines(url, a, b))-3], []string{a.Group}, 1},
		{"long line", slices.Concat(lines(url), bytes.Repeat([]byte("x"), 3*maxLine), []byte("\n"), lines(a)), []string{a.Group}, 1},
		{"endless line", slices.Concat(lines(a), bytes.Repeat([]byte("x"), 3*maxLine)), []string{a.Group}, 1},
		{"junk", []byte("hello\n\n\x00\n"), nil, 3},
		{"bad path", lines(stateLine{Group: "/metrics/job@base64/YQ/instance/b", record: a.record}), nil, 1},
		{"bad target", lines(stateLine{Group: a.Group, record: record{"xx", 1, false}}), nil, 1},
		{"bad interval", lines(stateLine{Group: a.Group, record: record{someTarget, 1 << 60, false}}), nil, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, records, bad, err := readState(bytes.NewReader(tc.data))
			var got []string
			for g := range records {
				got = append(got, g)
			}
			slices.Sort(got)
			if err != nil || bad != tc.bad || !slices.Equal(got, tc.want) {
				t.Errorf("read %q with %d bad lines, %v; want %q with %d", got, bad, err, tc.want, tc.bad)
			}
		})
	}
}

func TestStateIsRewritten(t *testing.T) {
	dir := t.TempDir()
	_, st, err := openState(dir, "http://g", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	r := record{someTarget, 1000, false}
	for i := range 3000 {
		path := key{job: "a", instance: fmt.Sprint(i % 10)}.path()
		if err := st.write(path, record{}); err != nil {
			t.Fatal(err)
		}
		if err := st.write(path, r); err != nil {
			t.Fatal(err)
		}
		if err := st.sync(10); err != nil {
			t.Fatal(err)
		}
	}
	if err := st.close(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(st.path)
	if err != nil || info.Size() > 300_000 {
		t.Errorf("the file has %d bytes for ten groups, %v", info.Size(), err)
	}
	records, st, err := openState(dir, "http://g", slog.New(slog.DiscardHandler))
	if err != nil || len(records) != 10 {
		t.Errorf("%d groups read back, %v", len(records), err)
	}
	st.close()
}

func FuzzReadState(f *testing.F) {
	a := stateLine{Group: "/metrics/job/a/instance/1", record: record{someTarget, 10000, false}}
	f.Add(lines(stateLine{URL: "http://g"}, a, stateLine{Group: a.Group}))
	f.Add(lines(a)[:40])
	f.Add([]byte("00000000 {}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		url, records, _, err := readState(bytes.NewReader(data))
		if err != nil {
			t.Fatalf("reading from memory: %v", err)
		}
		// What was read is written and read back the same.
		all := lines(stateLine{URL: url})
		for g, r := range records {
			all = appendLine(all, stateLine{Group: g, record: r})
		}
		_, again, bad, err := readState(bytes.NewReader(all))
		if url != "" && (bad != 0 || err != nil) || !reflect.DeepEqual(again, records) {
			t.Errorf("read back %v with %d bad lines, %v; want %v", again, bad, err, records)
		}
	})
}
