package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/choria-io/prometheus-streams/e2e/harness"
	"github.com/choria-io/prometheus-streams/internal/frame"
)

// TestSeriesThatChange: of each target one series is another one with each scrape. Their schemas are stored as changes of
// each other, which is much less than all of them; poller, receiver and hub are killed, the registry loses what it had, and
// every scrape arrives as it was.
func TestSeriesThatChange(t *testing.T) {
	t.Parallel()
	server := startNATS(t, "")
	recorder := startRecorder(t, server, "churn")
	var all []*harness.Target
	for i := range 3 {
		g := targets.New(t, fmt.Sprint("node-", i), 400+10*i) // no two of one shape
		g.Churn = 1
		all = append(all, g)
	}
	poller := startPoller(t, pollerYAML(server, "site", "250ms", harness.JobsYAML("edge", all...)))
	more := func(scrapes int) {
		t.Helper()
		want := lastNumbers(all)
		for g := range want {
			want[g] += scrapes
		}
		recorder.WaitNumbers(t, 60*time.Second, want)
	}
	more(40)
	checkChanges(t, server, lastNumbers(all))

	recorder.Kill()
	poller.Kill()
	crash := pause{from: time.Now().Add(-2 * time.Second)} // the spool's disk is synced each second, what was not in it yet is lost
	poller.Restart(t)
	crash.to = time.Now()
	recorder.Restart(t)
	more(20)

	// A receiver that has nothing, and streams that have nothing: what the poller uses is stored again when it starts.
	restart := pause{from: time.Now()}
	stopWell(t, poller.Process)
	restart.to = time.Now()
	drained(t, server, recorder)
	js := server.JetStream(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, name := range []string{"PROMETHEUS", "PROMETHEUS_SCHEMAS"} {
		stored, err := js.Stream(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		if err := stored.Purge(ctx); err != nil {
			t.Fatal(err)
		}
	}
	poller.Restart(t)
	more(20)
	fresh := startRecorder(t, server, "fresh").Ready(t)
	fresh.WaitNumbers(t, 30*time.Second, lastNumbers(all))
	stopWell(t, fresh.Process)
	if err := js.DeleteConsumer(ctx, "PROMETHEUS", "fresh-recorder"); err != nil {
		t.Fatal(err)
	}

	server.Kill()
	time.Sleep(3 * time.Second)
	server.Restart(t)
	more(20)
	end := pause{from: time.Now()}
	stopWell(t, poller.Process)
	end.to = time.Now()
	drained(t, server, recorder)
	stopWell(t, recorder.Process)
	checkNumbers(t, recorder.Account(t), "site", "edge", all, crash, restart, end)
}

// checkChanges looks at the schemas of targets that were scraped so often: each has one for each scrape, most of them in
// the form of a change, and all are readable with what is stored.
func checkChanges(t *testing.T, server *harness.NATS, scrapes map[*harness.Target]int) {
	t.Helper()
	messages := registry(t, server)
	lim := frame.DefaultLimits()
	full, size, changes := 0, 0, 0
	for id, m := range messages {
		_, change, err := frame.SchemaParent(m, lim)
		if err != nil {
			t.Fatal(err)
		}
		size += len(m)
		if change {
			changes++
		} else {
			full = max(full, len(m))
		}
		if _, err := frame.UnmarshalSchemaDelta(id, m, func(parent frame.SchemaID) (*frame.Schema, []byte, error) {
			return nil, messages[parent], nil
		}, lim); err != nil {
			t.Errorf("schema %s as it is stored: %v", id, err)
		}
	}
	least := 0
	for _, n := range scrapes {
		least += n - 10
	}
	t.Logf("%d schemas, %d of them changes, in %d bytes; the largest takes %d", len(messages), changes, size, full)
	if len(messages) < least || changes < len(messages)*3/4 || size > len(messages)*full/4 {
		t.Errorf("%d schemas, %d of them changes, in %d bytes; want %d at least, three quarters changes, and a quarter of %d bytes each",
			len(messages), changes, size, least, full)
	}
}

// registry is what the stream of schemas has.
func registry(t *testing.T, server *harness.NATS) map[frame.SchemaID][]byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	schemas, err := server.JetStream(t).Stream(ctx, "PROMETHEUS_SCHEMAS")
	if err != nil {
		t.Fatal(err)
	}
	info, err := schemas.Info(ctx, jetstream.WithSubjectFilter("prometheus.schemas.site.*"))
	if err != nil {
		t.Fatal(err)
	}
	all := map[frame.SchemaID][]byte{}
	for subject := range info.State.Subjects {
		m, err := schemas.GetLastMsgForSubject(ctx, subject)
		if err != nil {
			t.Fatal(err)
		}
		id, err := frame.ParseSchemaID(subject[strings.LastIndexByte(subject, '.')+1:])
		if err != nil {
			t.Fatal(err)
		}
		all[id] = m.Data
	}
	return all
}
