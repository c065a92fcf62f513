package pushgateway

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// A paused sink pushes nothing and deletes nothing, however long; what came to it before goes on afterwards.
func TestPause(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, r *rig) {
		f, gone := newFeed(t, "job", "a", "instance", "b:1"), newFeed(t, "job", "a", "instance", "gone")
		r.deliver("1", f.scrape(gauge("x", 1)))
		r.deliver("gone", gone.scrape(gauge("x", 1)))
		time.Sleep(time.Second)
		synctest.Wait()
		before := len(r.gw.requests())
		r.sink.Pause()
		r.sink.Pause()
		r.deliver("2", f.scrape(gauge("x", 2)))
		r.deliver("end", gone.end(frame.Removed))
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if got := r.gw.requests(); len(got) != before {
			t.Errorf("paused, it asked the gateway: %q", got[before:])
		}
		r.want("2", "waiting")
		r.sink.Resume()
		r.sink.Resume()
		synctest.Wait()
		r.want("2", "rejected: aged") // it is a day old now
		r.want("end", "ok")
		if r.gw.has("job=a,instance=gone") {
			t.Error("a target that ended before the pause still has its group after it")
		}
		time.Sleep(4 * time.Minute) // the pause itself is no silence
		synctest.Wait()
		r.wantExposed(a1, "gauge x 1", "untyped up 1")
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if r.gw.has(a1) {
			t.Error("a silent group is still there")
		}
	})
}
