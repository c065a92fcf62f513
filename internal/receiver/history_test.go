package receiver

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// pair is a publisher with two targets, whose keyframes are at different times.
type pair struct {
	*site
	other *frame.Encoder
}

func newPair(w *world, name string, opts frame.EncoderOptions) *pair {
	s := newSite(w, name, opts)
	return &pair{s, frame.NewEncoder(s.epoch, &frame.Target{
		ID: 2, Labels: labels.FromStrings("instance", name+"-other", "job", "test"), Interval: 15 * time.Second, Timeout: 10 * time.Second,
	}, opts)}
}

// othersFrom is added to the values of the other target.
const othersFrom = 1000

// bundle makes the next bundle, with a scrape of the first target and, if both, one of the other. It tells which are keyframes.
func (p *pair) bundle(both bool) (msg []byte, first, other bool) {
	encoders := []*frame.Encoder{p.encoder}
	if both {
		encoders = append(encoders, p.other)
	}
	p.scrapes++
	p.seq++
	var frames []byte
	for i, e := range encoders {
		var err error
		frames, err = e.AppendScrape(frames, time.Now().UnixMilli(), frame.Report{Duration: time.Millisecond, Scraped: 2, PostRelabel: 2},
			p.schema, &frame.Column{Values: []float64{p.scrapes + float64(i)*othersFrom, 0.5}})
		if err != nil {
			p.w.t.Fatal(err)
		}
		p.totals.Frames++
		p.totals.Samples += 2
	}
	totals := p.totals
	msg = frame.AppendBundle(nil, frame.Header{Publisher: p.name, Lane: "live", Epoch: p.epoch, Seq: p.seq, Totals: &totals}, frames)
	b, err := frame.ParseBundle(msg, frame.DefaultLimits())
	if err != nil {
		p.w.t.Fatal(err)
	}
	keyframes := [2]bool{1: !both}
	i := 0
	for raw := range b.Frames() {
		keyframes[i] = raw.Keyframe()
		i++
	}
	return msg, keyframes[0], keyframes[1]
}

// A stream begins with a bundle that has the keyframe of one target and not that of another: that the lane is read back for
// the second, in vain, does not cost the first what it had of this bundle.
func TestReadBackKeepsWhatTheLaneHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := newPair(w, "A", frame.EncoderOptions{KeyframeEvery: 8, KeyframeMaxAge: time.Hour})
		msg, first, other := p.bundle(true)
		for !first || other {
			msg, first, other = p.bundle(!first || !other) // without one of the other if they come at a time
		}
		w.start()
		var want []string
		for {
			w.send("A", msg)
			if want = append(want, fmt.Sprintf("A/%v", p.scrapes)); other {
				want = append(want, fmt.Sprintf("A/%v", p.scrapes+othersFrom))
				break
			}
			time.Sleep(15 * time.Second)
			msg, _, other = p.bundle(true)
		}
		w.stop()
		w.sink.want(t, want...)
	})
}
