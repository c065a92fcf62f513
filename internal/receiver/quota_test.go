package receiver

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// crowd is a publisher that makes up targets: each bundle has the first keyframes of so many new ones.
func crowd(s *site, lane string, first, targets int) []byte {
	s.seq++
	var frames []byte
	for id := first; id < first+targets; id++ {
		e := frame.NewEncoder(s.epoch, &frame.Target{
			ID: uint64(id + 100), Labels: labels.FromStrings("instance", fmt.Sprint(id), "job", "crowd"), Interval: 15 * time.Second,
		}, frame.EncoderOptions{})
		for range 2 { // the first keyframe may be followed by another one at once; then the second is the one to build on
			var err error
			if frames, err = e.AppendScrape(frames, time.Now().UnixMilli(), frame.Report{}, s.schema, &frame.Column{Values: make([]float64, len(s.schema.Series))}); err != nil {
				s.w.t.Fatal(err)
			}
		}
	}
	return frame.AppendBundle(nil, frame.Header{Publisher: s.name, Lane: lane, Epoch: s.epoch, Seq: s.seq}, frames)
}

// held is what the account says, the sum of what the lanes really hold, and how many publishers have a share.
func (w *world) held() (account, sum int64, shares int) {
	told := make(chan struct{})
	w.p.answers.post(func() { // they are the pipeline's goroutine's alone
		for _, l := range w.p.lanes {
			sum += laneBytes + l.decoder.StateBytes() + l.decoder.SchemaBytes()
		}
		account, shares = w.p.quota.used, len(w.p.quota.shares)
		close(told)
	})
	<-told
	return account, sum, shares
}

func (w *world) wantWithin(limit int64) {
	w.t.Helper()
	account, sum, _ := w.held()
	if account != sum {
		w.t.Errorf("the account says %d bytes, decoders and lanes have %d", account, sum)
	}
	if sum > limit {
		w.t.Errorf("%d bytes are held, limit %d", sum, limit)
	}
}

// A publisher that makes up 20,000 targets takes what the others leave, and is told so; those that were there before and
// those that come later lose nothing.
func TestPublisherWithoutEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var log bytes.Buffer
		w.log = &log
		const limit = 2 << 20
		w.limits.StateBytes = limit
		before, hostile, after := newSite(w, "before", frame.EncoderOptions{}), newSite(w, "hostile", frame.EncoderOptions{}), newSite(w, "after", frame.EncoderOptions{})
		w.start()
		before.send()
		for i := range 100 {
			w.send("hostile", crowd(hostile, "live", 200*i, 200))
			w.wantWithin(limit)
			if i%10 == 0 {
				time.Sleep(15 * time.Second)
				before.send()
			}
		}
		if n := w.metric("dropped_frames_total", "publisher", "hostile", "reason", stateLimit); n < 10000 {
			t.Errorf("%v frames refused for want of memory", n)
		}
		// A new publisher, with many targets of its own: the hostile one gives way, down to what the new one has.
		crowded := newSite(w, "crowded", frame.EncoderOptions{})
		for i := range 20 {
			after.send()
			w.send("crowded", crowd(crowded, "live", 50*i, 50))
			w.wantWithin(limit)
		}
		w.wantMetric(float64(before.scrapes), "delivered_frames_total", "publisher", "before")
		w.wantMetric(float64(after.scrapes), "delivered_frames_total", "publisher", "after")
		w.wantMetric(2*50*20, "delivered_frames_total", "publisher", "crowded")
		for _, p := range []string{"before", "after", "crowded"} {
			w.wantMetric(0, "dropped_frames_total", "publisher", p)
			w.wantMetric(0, "shed_targets_total", "publisher", p)
		}
		if n := w.metric("shed_targets_total", "publisher", "hostile"); n < 100 {
			t.Errorf("%v targets of the hostile publisher gave way", n)
		}
		time.Sleep(2 * time.Second)
		account, _, _ := w.held()
		w.wantMetric(float64(account), "state_bytes", "sink", "test")
		if account < limit/2 {
			t.Errorf("%d bytes are used of %d", account, limit)
		}
		w.stop()
		for _, want := range []string{`publisher \"hostile\"`, fmt.Sprint("limit ", limit), "receiver.limits.state_bytes", "reason=state_limit"} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("the log does not say %s:\n%s", want, log.String())
			}
		}
		if len(w.acked) != len(w.messages) {
			t.Errorf("%d of %d messages acknowledged", len(w.acked), len(w.messages))
		}
	})
}

// A publisher that makes up 20,000 lanes, and 20,000 publishers with a lane each, stay within the limit too.
func TestLanesWithoutEnd(t *testing.T) {
	for _, c := range []struct {
		name      string
		publisher func(i int) string
		lane      func(i int) string
	}{
		{"lanes of one", func(int) string { return "hostile" }, func(i int) string { return fmt.Sprint("lane", i) }},
		{"publishers", func(i int) string { return fmt.Sprint("hostile", i) }, func(int) string { return "live" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				var log bytes.Buffer
				w.log = &log
				const limit = 2 << 20
				w.limits.StateBytes = limit
				good, hostile := newSite(w, "good", frame.EncoderOptions{}), newSite(w, "hostile", frame.EncoderOptions{})
				w.start()
				good.send()
				for i := range 20000 {
					hostile.name, hostile.seq = c.publisher(i), 0
					w.send(hostile.name, crowd(hostile, c.lane(i), i, 1))
					if i%2000 == 0 {
						w.wantWithin(limit)
						good.send()
					}
				}
				w.wantWithin(limit)
				w.wantMetric(float64(good.scrapes), "delivered_frames_total", "publisher", "good")
				w.wantMetric(0, "dropped_frames_total", "publisher", "good")
				if _, _, n := w.held(); n > limit/laneBytes {
					t.Errorf("%d publishers are known", n)
				}
				w.stop()
			})
		})
	}
}

// A publisher has a limit of its own, if one is set, and its account ends with its lanes.
func TestPublisherLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var log bytes.Buffer
		w.log = &log
		const limit = 200 << 10
		w.limits.PublisherStateBytes = limit
		a := newSite(w, "A", frame.EncoderOptions{})
		w.start()
		w.send("A", crowd(a, "live", 0, 2000))
		w.wantWithin(limit)
		if n := w.metric("dropped_frames_total", "publisher", "A", "reason", stateLimit); n < 100 {
			t.Errorf("%v frames refused", n)
		}
		if !strings.Contains(log.String(), fmt.Sprint("limit ", limit, " (receiver.limits.publisher_state_bytes)")) {
			t.Errorf("the log does not say the limit:\n%s", log.String())
		}
		time.Sleep(laneIdle + time.Minute)
		if account, sum, shares := w.held(); account != 0 || sum != 0 || shares != 0 {
			t.Errorf("%d and %d bytes of %d publishers are left", account, sum, shares)
		}
		w.stop()
	})
}

// A decoder that is made by reading back is in the account, and a target without room there is not looked for for ever.
func TestReplayIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var log bytes.Buffer
		w.log = &log
		const limit = 400 << 10
		w.limits.StateBytes = limit
		a := newSite(w, "A", frame.EncoderOptions{})
		w.store("A", crowd(a, "live", 0, 3000))
		w.floor.Delivered = 1
		a.every(15 * time.Second)
		a.bundle() // the keyframe is lost: what follows has to be looked for
		w.start()
		for range 40 {
			time.Sleep(15 * time.Second)
			a.send()
		}
		w.wantWithin(limit)
		if len(w.reads) == 0 {
			t.Error("nothing was read back")
		}
		if n := w.metric("delivered_frames_total", "publisher", "A"); n < 20 {
			t.Errorf("%v frames delivered", n)
		}
		w.stop()
	})
}
