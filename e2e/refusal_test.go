package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/choria-io/prometheus-streams/e2e/harness"
	"github.com/choria-io/prometheus-streams/e2e/record"
)

// refused is a site whose hub refuses what it sends, for a while.
type refused struct {
	t        *testing.T
	server   *harness.NATS
	poller   *harness.Product
	recorder *harness.Recorder
	all      []*harness.Target
}

// startRefused starts a site with these many series in each of three targets. Its URLs name users.
func startRefused(t *testing.T, server *harness.NATS, series int, spool string) *refused {
	t.Helper()
	r := &refused{t: t, server: server, all: targets.Many(t, "node", 3, series)}
	r.recorder = startRecorder(t, server.As("hub", "h"), "refused")
	r.poller = startPoller(t, pollerYAML(server.As("site", "s"), "site", "1s", harness.JobsYAML("edge", r.all...))+spool)
	r.recorder.WaitNumbers(t, 60*time.Second, map[*harness.Target]int{r.all[0]: 3, r.all[1]: 3, r.all[2]: 3})
	return r
}

// blocked waits until the poller says that nothing can be stored for a reason, and that it keeps what it scrapes.
func (r *refused) blocked(reason string) {
	r.t.Helper()
	want := 5.0 // more than the window of a forwarder that looks on
	harness.Wait(r.t, 60*time.Second, "forward_blocked says "+reason+" and the spool grows", func() error {
		page, err := harness.Scrape(r.poller.URL + "/metrics")
		if err != nil {
			return err
		}
		is := page.Sum("prometheus_streams_forward_blocked", harness.Labels{"reason": reason})
		if n := page.Sum("prometheus_streams_spool_records", nil); is != 1 || n < want {
			return fmt.Errorf("blocked %v, %v records wait; by reason %v", is, n, page.Values("prometheus_streams_forward_blocked", nil))
		}
		return nil
	})
}

// said checks that one line of the poller's log has all of these words.
func (r *refused) said(words ...string) {
	r.t.Helper()
	for line := range strings.Lines(r.poller.Output()) {
		all := true
		for _, w := range words {
			all = all && strings.Contains(line, w)
		}
		if all {
			return
		}
	}
	r.t.Errorf("no line of the log has all of %q", words)
}

// recovers waits until everything is delivered, and accounts for every sample.
func (r *refused) recovers() {
	r.t.Helper()
	t := r.t
	r.recorder.WaitNumbers(t, 90*time.Second, lastNumbers(r.all))
	page := r.poller.Metrics(t)
	if n := page.Sum("prometheus_streams_forward_blocked", nil); n != 0 {
		t.Errorf("still blocked: %v", page.Values("prometheus_streams_forward_blocked", nil))
	}
	r.said("the stream stores messages again")
	for _, name := range []string{"spool_dropped_samples_total", "forward_aside_samples_total"} {
		if n := page.Sum("prometheus_streams_"+name, nil); n != 0 {
			t.Errorf("%s is %v", name, n)
		}
	}
	end := pause{from: time.Now()}
	stopWell(t, r.poller.Process)
	end.to = time.Now()
	drained(t, r.server.As("hub", "h"), r.recorder)
	stopWell(t, r.recorder.Process)
	a := r.recorder.Account(t)
	if n := a.Missing(); n != 0 {
		t.Errorf("%d bundles missing: %v", n, a.Gaps)
	}
	checkNumbers(t, a, "site", "edge", r.all, end)
}

// users are the rights at the hub; publish is what the site may publish.
func users(publish string) string {
	return fmt.Sprintf(`authorization { users: [
  { user: hub, password: h }
  { user: site, password: s, permissions { publish { allow: [%s] } } }
] }`, publish)
}

const (
	mayPublish = `"prometheus.frames.site.>", "prometheus.schemas.site.>"`
	mayNothing = `"prometheus.frames.other.>"`
	// mine is in the log of a subject of the site's own: that of its frames or, if one is stored at the time, of a schema.
	mine = ".site."
)

// The right to publish is withdrawn while the poller runs, and given back.
func TestRightWithdrawn(t *testing.T) {
	t.Parallel()
	server := startNATS(t, users(mayPublish))
	r := startRefused(t, server, 20, "")
	server.Reload(t, users(mayNothing))
	r.blocked("denied")
	r.said("the server denies the right to publish", mine)
	server.Reload(t, users(mayPublish))
	r.recovers()
}

// The stream is at its limit and discards what is new, until it gets more room.
func TestStreamAtItsLimit(t *testing.T) {
	t.Parallel()
	server := startNATS(t, users(mayPublish+`, "$JS.API.STREAM.INFO.PROMETHEUS"`))
	r := startRefused(t, server, 50, "")
	js := server.As("hub", "h").JetStream(t)
	limit := func(room func(held uint64) int64) int64 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		s, err := js.Stream(ctx, "PROMETHEUS")
		if err != nil {
			t.Fatal(err)
		}
		c := s.CachedInfo().Config
		c.Discard, c.MaxBytes = jetstream.DiscardNew, room(s.CachedInfo().State.Bytes)
		if _, err := js.UpdateStream(ctx, c); err != nil {
			t.Fatal(err)
		}
		return c.MaxBytes
	}
	most := limit(func(held uint64) int64 { return int64(held) + 4000 })
	r.blocked("full")
	r.said("the stream is full", "prometheus.frames.site.live", "maximum bytes exceeded", fmt.Sprintf("limit=%d", most), "bytes=")
	limit(func(uint64) int64 { return -1 })
	r.recovers()
}

// The hub takes smaller messages than those that wait in the spool: they go in parts. Then it takes no message of any use,
// until that is mended.
func TestPayloadLowered(t *testing.T) {
	t.Parallel()
	server := startNATS(t, users(mayPublish))
	r := startRefused(t, server, 2000, "")
	server.Kill()
	r.blocked("disconnected")
	r.said("cannot publish: the spool keeps everything", mine)
	served := r.all[0].Numbers()
	harness.Wait(t, 30*time.Second, "bundles wait", func() error {
		if n := r.all[0].Numbers(); n < served+10 {
			return fmt.Errorf("%d scrapes since the hub went away", n-served)
		}
		return nil
	})
	const small, tiny = 4096, 700
	server.Write(t, fmt.Sprintf("max_payload: %d\n", small)+users(mayPublish))
	server.Restart(t)
	r.recorder.WaitNumbers(t, 60*time.Second, lastNumbers(r.all))
	r.said("a message is larger than the server or the stream takes", "subject=prometheus.", "bytes=", fmt.Sprintf("limit=%d", small))
	if n := r.poller.Metrics(t).Sum("prometheus_streams_forward_cut_messages_total", nil); n == 0 {
		t.Error("no message was cut")
	}

	server.Reload(t, fmt.Sprintf("max_payload: %d\n", tiny)+users(mayPublish))
	r.blocked("refused")
	r.said("the stream refuses messages", "subject=prometheus.", "it has", fmt.Sprintf("the server takes at most %d", tiny))
	server.Reload(t, users(mayPublish))
	r.recovers()
}

// The hub's power fails and it comes back as its disk was a while ago: what it had acknowledged since is sent again.
func TestHubForgets(t *testing.T) {
	t.Parallel()
	server := startNATS(t, users(mayPublish))
	r := startRefused(t, server, 50, "")
	before := filepath.Join(t.TempDir(), "before")
	server.Kill()
	if err := os.CopyFS(before, os.DirFS(server.Store())); err != nil {
		t.Fatal(err)
	}
	server.Restart(t)
	more := map[*harness.Target]int{r.all[0]: r.all[0].Numbers() + 8}
	r.recorder.WaitNumbers(t, 60*time.Second, more)
	server.Kill()
	if err := os.RemoveAll(server.Store()); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(server.Store(), os.DirFS(before)); err != nil {
		t.Fatal(err)
	}
	server.Restart(t)
	r.poller.WaitOutput(60*time.Second, "sending again what the stream had acknowledged and may have lost")
	r.said("the stream's sequence went back", "from=", "to=")
	if n := r.poller.Metrics(t).Sum("prometheus_streams_forward_resent_messages_total", nil); n == 0 {
		t.Error("nothing was counted as sent again")
	}
	r.recovers()
}

// A full spool that is told to drop nothing stops the scraping, and loses nothing.
func TestSpoolStopsScraping(t *testing.T) {
	t.Parallel()
	server := startNATS(t, users(mayPublish))
	r := startRefused(t, server, 3000, fmt.Sprintf("\nspool: {directory: %s, max_size: 512KiB, when_full: stop_scraping}\n", t.TempDir()))
	server.Kill()
	r.poller.WaitOutput(60*time.Second, "the spool is nearly full: when it is, ")
	r.poller.WaitOutput(60*time.Second, "the spool is full: nothing is scraped until it has room")
	page := r.poller.Metrics(t)
	if n := page.Sum("prometheus_streams_poller_spool_full", nil); n != 1 {
		t.Errorf("poller_spool_full is %v", n)
	}
	harness.Wait(t, 20*time.Second, "scrapes are skipped", func() error {
		if r.poller.Metrics(t).Sum("prometheus_streams_poller_skipped_scrapes_total", harness.Labels{"reason": "spool_full"}) == 0 {
			return errors.New("none is")
		}
		return nil
	})
	server.Restart(t)
	r.poller.WaitOutput(60*time.Second, "the spool has room again")
	r.recovers()
}

// Without a directory for its spool, a poller keeps what waits in memory, up to a limit, says so, and counts what it drops.
func TestSpoolWithoutDirectory(t *testing.T) {
	t.Parallel()
	const limit = 4 << 20
	server := startNATS(t, "")
	recorder := startRecorder(t, server, "memory")
	all := targets.Many(t, "node", 4, 4000)
	config := pollerYAML(server, "site", "500ms", harness.JobsYAML("edge", all...)) +
		fmt.Sprintf("\nspool:\n  max_size: %d\n", limit)
	var before []string
	if os.Geteuid() == 0 { // who may write everywhere; others may not write to the default directory anyway
		before = []string{"unshare", "--mount", "sh", "-c", `mount -t tmpfs -o ro none /var/lib && exec "$@"`, "sh"}
	}
	poller := harness.StartBefore(t, builds, before, "poller", ports.Next(t), config)
	recorder.WaitNumbers(t, 60*time.Second, map[*harness.Target]int{all[0]: 2})
	line := poller.WaitOutput(10*time.Second, "the spool's directory cannot be used: what waits for the stream is kept in memory")
	if !strings.Contains(line, "level=WARN") || !strings.Contains(line, "/var/lib/prometheus-streams/spool/site") || !strings.Contains(line, fmt.Sprintf("limit=%d", limit)) {
		t.Errorf("the warning names no file or limit: %s", line)
	}
	metric := func(name string) float64 { return poller.Metrics(t).Sum("prometheus_streams_"+name, nil) }
	if on := poller.Metrics(t).Values("prometheus_streams_spool_on_disk", nil); len(on) != 1 || metric("spool_on_disk") != 0 {
		t.Errorf("spool_on_disk is %v", on)
	}

	server.Kill()
	peak := int64(0)
	harness.Wait(t, 2*time.Minute, "the spool is full and has dropped a third of its size", func() error {
		if held := metric("spool_bytes"); held > limit {
			t.Fatalf("%v bytes in a spool of %d", held, limit)
		}
		dropped := metric("spool_dropped_samples_total")
		if peak == 0 && dropped > 0 {
			peak = poller.PeakMemory()
		}
		if n := metric("spool_dropped_records_total"); n < 30 {
			return fmt.Errorf("%v samples in %v bundles dropped", dropped, n)
		}
		return nil
	})
	t.Logf("peak memory %d MB when the spool was full, %d MB later", peak>>20, poller.PeakMemory()>>20)
	if more := poller.PeakMemory() - peak; more > peak/2 {
		t.Errorf("the memory grew by %d bytes after the spool was full, from %d", more, peak)
	}
	poller.WaitOutput(time.Second, "the spool is nearly full: when it is, ")
	poller.WaitOutput(time.Second, "the spool is full and dropped its oldest samples, which are lost")
	server.Restart(t)
	recorder.WaitNumbers(t, 60*time.Second, lastNumbers(all))
	dropped := poller.Metrics(t).Values("prometheus_streams_spool_dropped_frames_total", harness.Labels{"reason": "full"})
	lost := 0
	for _, n := range dropped {
		lost += int(n)
	}
	stopWell(t, poller.Process)
	drained(t, server, recorder)
	page := harness.MustScrape(t, recorder.URL+"/metrics")
	missing := int(page.Sum("prometheus_streams_receiver_lost_frames_total", nil))
	// What builds on a frame that was dropped cannot be read until the target's next keyframe.
	unreadable := int(page.Sum("prometheus_streams_receiver_dropped_frames_total", nil))
	stopWell(t, recorder.Process)
	a := recorder.Account(t)
	absent := 0
	for _, g := range all {
		key := record.TargetKey("site", fmt.Sprintf(`{instance=%q, job="edge"}`, g.Name))
		absent += len(harness.CheckTarget(t, a, key, g).Missing(len(g.Served())))
	}
	t.Logf("frames: %d dropped by the poller, %d not readable without them, %d counted as lost by the receiver; %d scrapes of the targets not delivered",
		lost, unreadable, missing, absent)
	// Scrapes that came too late are among those not delivered, those of the poller's own job among the counted ones.
	if missing != lost+unreadable || absent < missing*3/5 {
		t.Errorf("the counts differ")
	}
}
