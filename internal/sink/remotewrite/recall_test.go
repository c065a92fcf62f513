package remotewrite

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

// recallStory is a target's frames: series and exemplars come, go and come back, scrapes fail, the target ends and begins again.
func recallStory(t *testing.T, start int64) []*frame.Frame {
	t.Helper()
	one, two, three := schemaOf(t, ms("1", "2")...), schemaOf(t, ms("2", "3")...), schemaOf(t, ms("3")...)
	at := func(i int) int64 { return start + int64(i)*15000 }
	shown := func(f *frame.Frame, row int, id string) *frame.Frame {
		f.Column.Exemplars = []frame.Exemplar{{Row: row, Labels: labels.FromStrings("id", id), Value: 1, Timestamp: frame.NoTimestamp}}
		return f
	}
	batch := func(f *frame.Frame, times ...int64) *frame.Frame {
		f.Column.Timestamps = []int64{frame.NoTimestamp, f.Time - 1}
		for i, ms := range times {
			f.Column.Earlier = append(f.Column.Earlier, frame.Earlier{Row: 1, Value: float64(i), Timestamp: ms})
		}
		return f
	}
	return []*frame.Frame{
		shown(scraped(one, at(0), 1, 2), 0, "a"), shown(scraped(two, at(1), 2, 3), 0, "b"), shown(scraped(two, at(2), 2, 3), 0, "b"),
		scraped(three, at(3), 3), batch(scraped(one, at(4), 1, 2), at(3)+5, at(3)+6), {Kind: frame.Down, Time: at(5)}, {Kind: frame.Down, Time: at(6)},
		batch(scraped(one, at(7), 1, 2), at(6)+5, at(6)+7), {Kind: frame.End, Reason: frame.Removed, Time: at(7) + 5}, scraped(two, at(10), 1, 2),
		{Kind: frame.End, Reason: frame.Removed, Time: at(10) + 1}, scraped(three, at(11)-1, 5), scraped(one, at(12), 5, 6), {Kind: frame.End, Reason: frame.Removed, Time: at(12) + 5},
	}
}

// teller tells the story to one receiver after the other.
type teller struct {
	t     *testing.T
	f     *server
	o     Options
	w     *world
	story []*frame.Frame

	mu   sync.Mutex
	done []bool
}

func (x *teller) delivery(n int, again bool) sink.Delivery {
	f := *x.story[n]
	f.Target, f.Position = site("job", "a"), uint64(n+1)
	f.Report.Added = 100 + n                   // a poller that is restarted counts too much
	epoch := 1 + uint64((n+1)/4)*uint64(n%2+1) // it is, now and then
	return sink.Delivery{Frame: &f, Publisher: "DC1", Lane: "live", Epoch: epoch, Seq: uint64(n + 1), Stored: time.UnixMilli(f.Time), Repeated: again}
}

func (x *teller) give(n int, again bool) {
	x.w.Deliver(context.Background(), x.delivery(n, again), func(err error) {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.done[n] = err == nil
	})
}

// start begins anew with a copy of a state, behind frame n: what is done is recalled, what is not comes again.
func (x *teller) start(state string, n int) {
	x.o.StateDirectory = x.t.TempDir()
	if state != "" {
		if err := os.CopyFS(x.o.StateDirectory, os.DirFS(state)); err != nil {
			x.t.Fatal(err)
		}
	}
	x.w = newWorld(x.t, x.f, x.o)
	for i := range n {
		if x.done[i] {
			x.w.Recall(context.Background(), x.delivery(i, false))
		} else {
			x.give(i, true)
		}
	}
}

// tell gives what the server has in the end, if the receiver is stopped before the frame saved and killed before another.
func tell(t *testing.T, saved, killed int) map[string]string {
	x := &teller{t: t, f: newServer(t, 2)}
	bubble(t, func(t *testing.T) {
		begin := time.Now().UnixMilli()
		x.t, x.story = t, recallStory(t, begin)
		x.done = make([]bool, len(x.story))
		schemas := map[frame.SchemaID]*frame.Schema{}
		for _, f := range x.story {
			if f.Schema != nil {
				schemas[f.Schema.ID] = f.Schema
			}
		}
		x.o = Options{SendExemplars: true, Schema: func(id frame.SchemaID) *frame.Schema { return schemas[id] }}
		x.start("", 0)
		state := ""
		for i, f := range x.story {
			time.Sleep(time.Until(time.UnixMilli(f.Time)))
			if i == saved {
				x.w.stopped()
				state = x.o.StateDirectory
				x.start(state, i)
				time.Sleep(time.Millisecond)
			}
			if i == killed {
				x.w.stopped()
				x.start(state, i)
			}
			x.give(i, false)
		}
		time.Sleep(time.Minute)
		x.w.stopped()
	})
	out := map[string]string{}
	for series, points := range x.f.stored {
		out[series] = fmt.Sprint(points, x.f.exemplars[series])
	}
	return out
}

// TestRecall kills the receiver before each frame, with the state file of an earlier moment or without any. What the server has in
// the end is each time what it has of one that was never stopped.
func TestRecall(t *testing.T) {
	want := tell(t, -1, -1)
	if len(want) < 8 {
		t.Fatalf("the server has %v", want)
	}
	for killed := 1; killed < 14; killed++ {
		for _, saved := range []int{-1, killed / 2, killed} {
			t.Run(fmt.Sprintf("killed before %d, state of %d", killed, saved), func(t *testing.T) {
				got := tell(t, saved, killed)
				for _, series := range slices.Sorted(maps.Keys(want)) {
					if got[series] != want[series] {
						t.Errorf("%s has\n%s, want\n%s", series, got[series], want[series])
					}
				}
			})
		}
	}
}

// TestRecallWaits: a receiver that reads back faster than the sink remembers is held up, and let go when it stops.
func TestRecallWaits(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, err := New(Options{URL: "http://a"})
		if err != nil {
			t.Fatal(err)
		}
		d := sink.Delivery{Frame: &frame.Frame{Kind: frame.Down, Target: site("job", "a"), Time: 5}, Stored: time.Now()}
		for range maxRecalls {
			s.Recall(context.Background(), d)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if s.Recall(ctx, d); ctx.Err() == nil {
			t.Error("one more than there is room for did not wait")
		}
		ctx, cancel = context.WithCancel(context.Background())
		ran := make(chan error)
		go func() { ran <- s.Run(ctx) }()
		s.Recall(context.Background(), d)
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
		s.Recall(context.Background(), d)
	})
}
