package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/choria-io/prometheus-streams/e2e/harness"
	"github.com/choria-io/prometheus-streams/internal/stream"
)

// manual is docs/permissions.md: the server's configuration, and those of the two roles.
type manual struct{ server, poller, receiver string }

func readManual(t *testing.T) manual {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(harness.Root(), "docs", "permissions.md"))
	if err != nil {
		t.Fatal(err)
	}
	block := func(begin string) string {
		m := regexp.MustCompile("(?s)```[a-z]+\n(" + regexp.QuoteMeta(begin) + "\n.*?)```").FindStringSubmatch(string(b))
		if m == nil {
			t.Fatalf("docs/permissions.md has no block that begins with %q", begin)
		}
		return m[1]
	}
	return manual{block("# nats-server: rights"), block("# role: poller"), block("# role: receiver")}
}

// replaced is a block with what differs here: addresses alone.
func replaced(t *testing.T, block string, pairs ...string) string {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if strings.Count(block, pairs[i]) != 1 {
			t.Fatalf("the block does not have %q once:\n%s", pairs[i], block)
		}
		block = strings.Replace(block, pairs[i], pairs[i+1], 1)
	}
	return block
}

// The page on permissions holds: what it gives is enough for a poller and a receiver, and it gives no more.
func TestPermissions(t *testing.T) {
	t.Parallel()
	doc := readManual(t)
	server := startNATS(t, doc.server)
	pushes := make(chan string, 1000)
	push := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case pushes <- r.URL.Path:
		default:
		}
	}))
	t.Cleanup(push.Close)
	web1 := targets.New(t, "web1", 10)
	poller := replaced(t, doc.poller, "nats://nats.example.net:4222", server.URL, "http://web1.example.net:9100/metrics", web1.URL(),
		"scrape_interval: 15s", "scrape_interval: 1s")
	receiver := replaced(t, doc.receiver, "nats://nats.example.net:4222", server.URL, "http://push.example.net:9091", push.URL,
		"receiver:\n", "receiver:\n  state_directory: "+t.TempDir()+"\n")

	setup := filepath.Join(t.TempDir(), "setup.yaml")
	write(t, setup, replaced(t, receiver, "user: hub", "user: setup", "change-me-3", "change-me-0", "  inbox_prefix: _INBOX.hub\n", ""))
	if r := harness.Run(t, builds, time.Minute, nil, "check", "stream", "--create", "--config", setup); r.Code != 0 {
		t.Fatalf("exit code %d:\n%s", r.Code, r.Output)
	}
	edge := startPoller(t, poller).Ready(t)
	hub := startReceiver(t, receiver)
	shown := harness.Labels{"job": "node", "instance": "web1", "publisher": "site1"}
	web1.WaitShown(t, 30*time.Second, hub, shown, 1)
	select {
	case <-pushes:
	case <-time.After(30 * time.Second):
		t.Error("nothing was pushed")
	}

	// At a restart the durable is reset.
	if code, _ := hub.Stop(30 * time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
	hub.Restart(t)
	hub.Ready(t)
	web1.WaitShown(t, 30*time.Second, hub, shown, web1.Numbers())
	t.Run("denied", func(t *testing.T) { denials(t, server) })
	t.Run("publishers", func(t *testing.T) { believed(t, server, hub) })
	t.Run("messages", func(t *testing.T) { messages(t, poller, receiver) })
	for _, p := range []*harness.Product{edge, hub} {
		if out := p.Output(); strings.Contains(out, "permission to") || strings.Contains(out, "denie") {
			t.Errorf("a right is missing:\n%s", out)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// denials tries what nobody may do.
func denials(t *testing.T, server *harness.NATS) {
	const api = "$JS.API."
	stop := []string{
		api + "STREAM.CREATE.MORE", api + "STREAM.UPDATE.PROMETHEUS", api + "STREAM.PURGE.PROMETHEUS", api + "STREAM.DELETE.PROMETHEUS",
		api + "STREAM.PURGE.PROMETHEUS_SCHEMAS", api + "STREAM.MSG.DELETE.PROMETHEUS", api + "CONSUMER.DELETE.PROMETHEUS.hub-push_gateway",
		api + "CONSUMER.CREATE.PROMETHEUS_SCHEMAS.x.prometheus.schemas.site1.x", api + "STREAM.LIST", "prometheus.frames.site3.live",
		"prometheus.control.site1.pause",
	}
	for user, c := range map[string]struct {
		password           string
		publish, subscribe []string
	}{
		"site1": {"change-me-1", append(stop, "prometheus.frames.site2.live", "prometheus.schemas.site2.x", api+"STREAM.INFO.PROMETHEUS",
			api+"DIRECT.GET.PROMETHEUS", api+"CONSUMER.MSG.NEXT.PROMETHEUS.x", "$JS.ACK.PROMETHEUS.x.1.1.1.1.1"),
			[]string{"prometheus.>", "prometheus.frames.site1.live", "_INBOX.>", "_INBOX.hub.>", "prometheus.control.site2.*"}},
		"hub": {"change-me-3", append(stop, "prometheus.frames.site1.live", "prometheus.schemas.site1.x", "prometheus.frames.hub.live"),
			[]string{"prometheus.>", "prometheus.frames.>", "_INBOX.>", "_INBOX.site1.>", "prometheus.control.site1.*"}},
		"strict": {"change-me-4", append(stop, "prometheus.frames.site1.live", api+"CONSUMER.CREATE.PROMETHEUS.x.prometheus.frames.*.*"),
			[]string{"prometheus.>", "prometheus.control.strict.*"}},
	} {
		denied := make(chan string, 100)
		conn, err := nats.Connect(server.URL, nats.UserInfo(user, c.password), nats.CustomInboxPrefix("_INBOX."+user),
			nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { denied <- err.Error() }))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(conn.Close)
		expect := func(what, subject string) {
			t.Helper()
			if err := conn.Flush(); err != nil {
				t.Fatal(err)
			}
			select {
			case text := <-denied:
				if !strings.Contains(text, `"`+subject+`"`) {
					t.Errorf("%s: %s on %s: %s", user, what, subject, text)
				}
			case <-time.After(10 * time.Second):
				t.Errorf("%s may %s %s", user, what, subject)
			}
		}
		for _, subject := range c.publish {
			if err := conn.PublishRequest(subject, "_INBOX."+user+".x", []byte("{}")); err != nil {
				t.Fatal(err)
			}
			expect("publish on", subject)
		}
		for _, subject := range c.subscribe {
			if _, err := conn.SubscribeSync(subject); err != nil {
				t.Fatal(err)
			}
			expect("subscribe to", subject)
		}
	}
}

// believed sends messages in the name of others, and of somebody who is not expected.
func believed(t *testing.T, server *harness.NATS, hub *harness.Product) {
	connect := func(user, password string) *nats.Conn {
		conn, err := nats.Connect(server.URL, nats.UserInfo(user, password), nats.CustomInboxPrefix("_INBOX."+user))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(conn.Close)
		return conn
	}
	own := stream.Subjects{Topic: "prometheus"}.Frames("site1", "live")
	harness.Publish(t, connect("site1", "change-me-1"), own, harness.NewForge(t, "site2", 7).Bundle(t, 1))
	stranger := harness.NewForge(t, "site3", 8)
	stranger.Forged(t, connect("setup", "change-me-0"), 3, 1)
	harness.Wait(t, 30*time.Second, "strangers are counted", func() error {
		page, err := harness.Scrape(hub.URL + "/metrics")
		if err != nil {
			return err
		}
		for _, sink := range []string{"gateway", "push_gateway"} {
			const dropped = "prometheus_streams_receiver_dropped_frames_total"
			wrong := page.Sum(dropped, harness.Labels{"reason": "wrong_publisher", "publisher": "site1", "sink": sink})
			stranger := page.Sum(dropped, harness.Labels{"reason": "publisher_not_allowed", "publisher": "site3", "sink": sink})
			if wrong != 1 || stranger != 3 {
				return fmt.Errorf("%s: %v wrong_publisher, want 1; %v publisher_not_allowed, want 3", sink, wrong, stranger)
			}
		}
		return nil
	})
	if page, err := hub.Gateway(""); err != nil || page.Count(harness.Labels{"job": "forged"}) != 0 {
		t.Errorf("a forged target is shown, or nothing: %v", err)
	}
}

// messages looks at what a process says that lacks a right: the subject, in its log.
func messages(t *testing.T, poller, receiver string) {
	run := func(name, mode, text string, want ...string) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := harness.StartProduct(t, builds, mode, ports.Next(t), text)
			for _, w := range want {
				p.WaitOutput(40*time.Second, regexp.QuoteMeta(w))
			}
		})
	}
	run("another site's name", "poller", replaced(t, poller, "identity: site1", "identity: site2"), "prometheus.frames.site2.live")
	run("another inbox", "poller", replaced(t, poller, "inbox_prefix: _INBOX.site1", "inbox_prefix: _INBOX.mine"), "_INBOX.mine.")
	elsewhere := replaced(t, receiver, "  state_directory: ", "  state_directory: "+t.TempDir()+"/", "identity: hub", "identity: other")
	run("a receiver as a poller", "receiver", replaced(t, elsewhere, "user: hub", "user: site1", "change-me-3", "change-me-1", "_INBOX.hub", "_INBOX.site1"),
		"$JS.API.STREAM.INFO.PROMETHEUS")
	run("without the right to make a consumer", "receiver", replaced(t, elsewhere, "user: hub", "user: strict", "change-me-3", "change-me-4", "_INBOX.hub", "_INBOX.strict"),
		"$JS.API.CONSUMER.CREATE.PROMETHEUS.")
}
