package record

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

// entry makes one delivered scrape for tests of the accounting.
func entry(run int, seq uint64, time int64, value float64, change ...func(*Frame)) Frame {
	f := Frame{InRun: run, Series: []labels.Labels{labels.FromStrings("__name__", "a", "job", "j")}, Entry: Entry{
		Kind: KindScraped, Publisher: "dc1", Lane: "live", Epoch: 7, Seq: seq, Position: seq, TargetID: 1,
		Target: labels.FromStrings("job", "j"), Time: time, Values: []float64{value},
	}}
	for _, c := range change {
		c(&f)
	}
	return f
}

func repeated(f *Frame) { f.Repeated = true }

func TestAccount(t *testing.T) {
	tests := []struct {
		name    string
		frames  []Frame
		problem string
		repeats int
		missing int
		// unmarked are repeats that were not marked.
		unmarked int
	}{
		{name: "in order", frames: []Frame{entry(1, 1, 10, 1), entry(1, 2, 20, 2)}},
		{name: "repeated by the next run", frames: []Frame{entry(1, 1, 10, 1), entry(1, 2, 20, 2), entry(2, 1, 10, 1, repeated), entry(2, 2, 20, 2, repeated), entry(2, 3, 30, 3)}, repeats: 2},
		{name: "a hole", frames: []Frame{entry(1, 1, 10, 1), entry(1, 4, 40, 4)}, missing: 2},
		{name: "twice in one run", frames: []Frame{entry(1, 1, 10, 1), entry(1, 1, 10, 1, repeated)}, problem: "twice by one run", repeats: 1},
		{name: "repeated with other content", frames: []Frame{entry(1, 1, 10, 1), entry(2, 1, 10, 1.5, repeated)}, problem: "other content", repeats: 1},
		{name: "repeated without a mark", frames: []Frame{entry(1, 1, 10, 1), entry(2, 1, 10, 1)}, repeats: 1, unmarked: 1},
		{name: "older after newer", frames: []Frame{entry(1, 2, 20, 2), entry(2, 1, 10, 1)}, problem: "time 10 delivered after 20"},
		{name: "sequence goes back", frames: []Frame{entry(1, 2, 20, 2), entry(1, 1, 30, 1)}, problem: "sequence 1 delivered after 2"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			a := (&Log{Frames: test.frames}).Account()
			if got := strings.Join(a.Problems, "\n"); (test.problem == "") != (got == "") || !strings.Contains(got, test.problem) {
				t.Errorf("problems %q, want one with %q", got, test.problem)
			}
			if a.Repeats != test.repeats {
				t.Errorf("%d repeats, want %d", a.Repeats, test.repeats)
			}
			if a.Unmarked[2] != test.unmarked {
				t.Errorf("%v unmarked, want %d", a.Unmarked, test.unmarked)
			}
			if a.Missing() != test.missing {
				t.Errorf("%d missing, want %d", a.Missing(), test.missing)
			}
		})
	}
}

func TestWriteAndRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	target := &frame.Target{ID: 3, Labels: labels.FromStrings("job", "j", "instance", "i")}
	schema, err := frame.NewSchema(nil, []frame.Series{
		{Labels: labels.FromStrings("__name__", "a"), Family: -1},
		{Labels: labels.FromStrings("__name__", "b", "x", "y"), Family: -1},
	}, frame.DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	absent := frame.NewBitmap(2)
	absent.Set(1)
	deliveries := []sink.Delivery{
		{Publisher: "dc1", Lane: "live", Epoch: 1, Seq: 1, Stored: time.UnixMilli(5).UTC(), Frame: &frame.Frame{
			Kind: frame.Scraped, Target: target, Position: 1, Time: 1000, Schema: schema, Column: frame.Column{Values: []float64{1, 2}}}},
		{Publisher: "dc1", Lane: "live", Epoch: 1, Seq: 2, Repeated: true, Frame: &frame.Frame{
			Kind: frame.Scraped, Target: target, Position: 2, Time: 2000, Schema: schema,
			Column: frame.Column{Values: []float64{3, 0}, Absent: absent, Timestamps: []int64{1500, frame.NoTimestamp}}}},
		{Publisher: "dc1", Lane: "live", Epoch: 1, Seq: 3, Frame: &frame.Frame{Kind: frame.Down, Target: target, Position: 3, Time: 3000}},
	}
	write := func(ds ...sink.Delivery) {
		t.Helper()
		w, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		for _, d := range ds {
			if err := w.Deliver(d); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(deliveries[:2]...)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// The second run is cut short in the middle of its last record, as by a kill.
	write(deliveries[2])
	info, _ := os.Stat(path)
	if err := os.Truncate(path, info.Size()-5); err != nil {
		t.Fatal(err)
	}
	write(deliveries[2])

	log, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if log.Runs != 3 || log.Torn == 0 || len(log.Frames) != 3 {
		t.Fatalf("%d runs, %d bytes torn, %d frames; want 3, some, 3 (first run wrote %d bytes)", log.Runs, log.Torn, len(log.Frames), len(whole))
	}
	second := log.Frames[1]
	if second.Values[0] != 3 || second.Times[0] != 1500 || len(second.Absent) != 1 || second.Absent[0] != 1 || !second.Repeated {
		t.Errorf("second frame read as %+v", second)
	}
	if got, want := second.Series[1].String(), `{__name__="b", instance="i", job="j", x="y"}`; got != want {
		t.Errorf("series %s, want %s", got, want)
	}
	if last := log.Frames[2]; last.Kind != KindDown || last.InRun != 3 || last.Time != 3000 {
		t.Errorf("last frame read as %+v", last)
	}
	if a := log.Account(); a.Broken != 0 || a.Samples != 3 {
		t.Errorf("%d samples and problems %v, want 3 and none", a.Samples, a.Problems)
	}
}
