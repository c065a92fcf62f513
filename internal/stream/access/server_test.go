package access

import (
	"errors"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

func TestShown(t *testing.T) {
	for url, want := range map[string]string{
		"nats://user:secret@a:4222": "nats://a:4222", "token@a": "a", "tls://a:4222": "tls://a:4222", "nats://u:p%40x@a/b@c": "nats://a/b@c",
	} {
		if got := (&Server{URLs: []string{url}}).Shown(); got != want {
			t.Errorf("%s: %s, want %s", url, got, want)
		}
	}
}

func TestViolation(t *testing.T) {
	tests := []struct{ text, operation, subject string }{
		{`nats: permissions violation: Permissions Violation for Publish to "a.b"`, "publish", "a.b"},
		{`nats: permissions violation: Permissions Violation for Subscription to "_INBOX.x.*"`, "subscribe", "_INBOX.x.*"},
		{`nats: permissions violation: Permissions Violation for Subscription to "a" using queue "q"`, "subscribe", "a"},
		{`nats: permissions violation: Permissions Violation for Publish with Reply of "x"`, "", ""},
		{`nats: stale connection`, "", ""},
	}
	for _, tt := range tests {
		e := Violation(errors.New(tt.text))
		if (e == nil) != (tt.subject == "") || (e != nil && (e.Operation != tt.operation || e.Subject != tt.subject)) {
			t.Errorf("%s: %+v", tt.text, e)
		}
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	one, err := newMetrics(reg)
	if err != nil {
		t.Fatal(err)
	}
	two, err := newMetrics(reg)
	if err != nil || one.connected != two.connected || one.published != two.published {
		t.Errorf("two connections do not share their metrics: %v", err)
	}
	one.connected.WithLabelValues("a").Set(1)
	one.reconnects.WithLabelValues("a").Inc()
	one.errors.WithLabelValues("a", "other").Inc()
	one.published.WithLabelValues("a", "stored").Inc()
	one.restarts.WithLabelValues("a", "c", "start").Inc()
	families, err := reg.Gather()
	if err != nil || len(families) != 5 {
		t.Fatalf("%d metrics, %v", len(families), err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	other := prometheus.NewRegistry()
	other.MustRegister(prometheus.NewCounterVec(prometheus.CounterOpts{Name: "prometheus_streams_stream_connected", Help: "x"}, []string{"y"}))
	if _, err := newMetrics(other); err == nil {
		t.Error("a metric of the same name that is another one was taken for ours")
	}
}
