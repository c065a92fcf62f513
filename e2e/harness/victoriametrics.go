package harness

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// VictoriaMetrics is a real VictoriaMetrics server, of Debian's package.
type VictoriaMetrics struct {
	*Process
	// URL of its API.
	URL string
}

// StartVictoriaMetrics starts a VictoriaMetrics on a port and waits until it is ready.
func StartVictoriaMetrics(t testing.TB, port int) *VictoriaMetrics {
	t.Helper()
	address := fmt.Sprintf("127.0.0.1:%d", port)
	v := &VictoriaMetrics{URL: "http://" + address}
	v.Process = Start(t, "victoria-metrics", Server(t, "victoria-metrics"), "-httpListenAddr="+address,
		"-storageDataPath="+filepath.Join(t.TempDir(), "data"), "-retentionPeriod=1")
	WaitReady(t, 30*time.Second, v.URL+"/health")
	return v
}

// OneRaw reads all samples of exactly one series, stale markers among them.
func (v *VictoriaMetrics) OneRaw(selector string) ([]RawSample, error) {
	if status, body, err := Get(v.URL + "/internal/force_flush"); err != nil || status != http.StatusOK {
		return nil, fmt.Errorf("flush: status %d: %s: %w", status, body, err)
	}
	status, body, err := Get(v.URL + "/api/v1/export?match[]=" + url.QueryEscape(selector))
	if err != nil || status != http.StatusOK {
		return nil, fmt.Errorf("export %s: status %d: %s: %w", selector, status, body, err)
	}
	lines := strings.Split(strings.TrimSpace(body), "\n")
	if len(lines) != 1 || lines[0] == "" {
		return nil, fmt.Errorf("%d series for %s: %s", len(lines), selector, body)
	}
	var series struct {
		Values     []*float64
		Timestamps []int64
	}
	if err := json.Unmarshal([]byte(lines[0]), &series); err != nil || len(series.Values) != len(series.Timestamps) {
		return nil, fmt.Errorf("export %s: %s: %w", selector, body, err)
	}
	var out []RawSample
	for i, x := range series.Values {
		s := RawSample{Time: time.UnixMilli(series.Timestamps[i])}
		if x == nil { // JSON has no NaN; nothing else that tests write is one
			s.Stale = true
		} else {
			s.Value = *x
		}
		out = append(out, s)
	}
	return out, nil
}
