package receiver

import (
	"bytes"
	"flag"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/stream"
)

// faultRuns of 10000 take some minutes; the default keeps the daily round short.
var (
	faultRuns = flag.Int("faults.runs", 300, "how many seeded runs TestRandomFaults makes")
	faultSeed = flag.Int("faults.seed", 0, "the first seed of TestRandomFaults")
)

// faultKeyframes is the keyframe interval, in scrapes, of the sites in TestRandomFaults.
const faultKeyframes = 8

// TestRandomFaults loses, repeats, reorders, cuts and corrupts messages, restarts consumer and process, and hides schemas,
// at random. No wrong sample may be delivered, none older after a newer one, and once the faults stop every target is
// delivered again within one keyframe interval.
func TestRandomFaults(t *testing.T) {
	for seed := *faultSeed; seed < *faultSeed+*faultRuns; seed++ {
		synctest.Test(t, func(t *testing.T) { randomFaults(t, uint64(seed)) })
	}
}

type faultRun struct {
	*world
	rng   *rand.Rand
	sites []*site
	truth map[string]map[int64]float64 // publisher, time → value
	late  []uint64                     // messages held back, to be handed out of order
}

func randomFaults(t *testing.T, seed uint64) {
	r := &faultRun{world: newWorld(t), rng: rand.New(rand.NewPCG(seed, 1)), truth: make(map[string]map[int64]float64)}
	var log bytes.Buffer
	r.log = &log
	defer func() {
		if t.Failed() {
			t.Logf("seed %d\n%s", seed, log.String())
		}
	}()
	r.state = t.TempDir()
	opts := frame.EncoderOptions{KeyframeEvery: faultKeyframes, KeyframeMaxAge: time.Hour}
	for _, name := range []string{"A", "B"} {
		r.sites = append(r.sites, newSite(r.world, name, opts))
		r.truth[name] = make(map[int64]float64)
	}
	hidden := r.schemas
	r.start()
	for range 30 {
		r.mu.Lock()
		r.schemas = hidden
		r.mu.Unlock()
		if r.rng.IntN(10) == 0 {
			r.mu.Lock()
			r.schemas = nil
			r.mu.Unlock()
		}
		for _, s := range r.sites {
			if r.rng.IntN(25) == 0 {
				s.restart(opts)
			}
			r.faulty(s.name, r.scrape(s))
		}
		r.disturb()
		time.Sleep(15 * time.Second)
	}
	r.mu.Lock()
	r.schemas = hidden
	r.mu.Unlock()
	r.flush()
	time.Sleep(2 * time.Minute) // holes and schemas are given up by now
	synctest.Wait()
	r.check(t)

	// A lane that gave up on a schema asks for it again when the next frame needs it.
	for _, s := range r.sites {
		r.world.send(s.name, r.scrape(s))
	}
	time.Sleep(15 * time.Second)
	before := len(r.sink.got)
	for range faultKeyframes {
		for _, s := range r.sites {
			r.world.send(s.name, r.scrape(s))
		}
		time.Sleep(15 * time.Second)
	}
	time.Sleep(time.Minute)
	r.stop()
	r.check(t)
	for _, s := range r.sites {
		if !r.newest(s, before) {
			t.Errorf("publisher %s is not delivered again within one keyframe interval", s.name)
		}
	}
}

// scrape makes the next bundle and notes what is true of it.
func (r *faultRun) scrape(s *site) []byte {
	b := s.bundle()
	r.truth[s.name][time.Now().UnixMilli()] = s.scrapes
	return b
}

// faulty stores a message and lets something happen to it.
func (r *faultRun) faulty(subject string, data []byte) {
	switch r.rng.IntN(12) {
	case 0: // lost
	case 1: // stored twice
		r.send(subject, data)
		r.send(subject, data)
	case 2: // stored late
		r.late = append(r.late, r.store(subject, data))
	case 3:
		r.send(subject, data[:r.rng.IntN(len(data))])
	case 4:
		bad := append([]byte(nil), data...)
		bad[r.rng.IntN(len(bad))] ^= 1 << r.rng.IntN(8)
		r.send(subject, bad)
	case 5: // on another's subject
		r.send(map[string]string{"A": "B", "B": "A"}[subject], data)
	default:
		r.send(subject, data)
	}
	if len(r.late) > 3 || r.rng.IntN(6) == 0 {
		r.flush()
	}
}

func (r *faultRun) flush() {
	r.hand(r.late...)
	r.late = nil
}

// disturb restarts the consumer or kills the process, now and then: what is not acknowledged comes again.
func (r *faultRun) disturb() {
	switch r.rng.IntN(20) {
	case 0:
		r.feed <- stream.Event{Kind: stream.Restarted}
		r.again()
	case 1:
		r.cancel()
		<-r.ended
		r.floor = stream.Floor{First: 1, Last: uint64(len(r.messages)), Delivered: uint64(len(r.messages))}
		for seq := uint64(1); r.acked[seq] > 0; seq++ {
			r.floor.Sequence, r.floor.Stored = seq, r.messages[seq-1].Stored
		}
		r.late = nil
		r.start()
		r.again()
	}
}

// again hands everything that is not acknowledged once more.
func (r *faultRun) again() {
	r.mu.Lock()
	var seqs []uint64
	for i := range r.messages {
		if seq := uint64(i + 1); r.acked[seq] == 0 {
			seqs = append(seqs, seq)
		}
	}
	r.mu.Unlock()
	r.late = nil
	r.hand(seqs...)
}

func (r *faultRun) check(t *testing.T) {
	t.Helper()
	newest := make(map[uint64]int64) // by epoch: an older epoch's late frames are for the sink to judge
	seen := make(map[[2]any]bool)
	for i, d := range r.sink.got {
		f := d.Frame
		if f.Kind != frame.Scraped {
			continue
		}
		want, known := r.truth[d.Publisher][f.Time]
		if !known || f.Column.Values[0] != want {
			t.Fatalf("frame %d of %s at %d has %v, want %v", i, d.Publisher, f.Time, f.Column.Values[0], want)
		}
		if f.Time < newest[d.Epoch] && !d.Repeated {
			t.Fatalf("frame %d of %s: %d after %d", i, d.Publisher, f.Time, newest[d.Epoch])
		}
		newest[d.Epoch] = max(newest[d.Epoch], f.Time)
		key := [2]any{d.Publisher, f.Time}
		if seen[key] && !d.Repeated {
			t.Fatalf("frame %d of %s at %d is delivered twice", i, d.Publisher, f.Time)
		}
		seen[key] = true
	}
}

// newest tells whether the last scrape of a site was delivered, after the first n deliveries.
func (r *faultRun) newest(s *site, n int) bool {
	for _, d := range r.sink.got[n:] {
		if d.Publisher == s.name && d.Frame.Kind == frame.Scraped && d.Frame.Column.Values[0] == s.scrapes {
			return true
		}
	}
	return false
}
