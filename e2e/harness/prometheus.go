package harness

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// Prometheus is a real Prometheus server.
type Prometheus struct {
	*Process
	// URL of its API and pages.
	URL string

	argv   []string
	config string
}

// StartPrometheus starts a Prometheus on a port with the given configuration file and waits until it is ready.
func StartPrometheus(t testing.TB, port int, config string, flags ...string) *Prometheus {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(path, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	p := &Prometheus{URL: "http://" + address, config: path}
	p.argv = append([]string{Server(t, "prometheus"), "--config.file=" + path, "--storage.tsdb.path=" + filepath.Join(dir, "tsdb"),
		"--web.listen-address=" + address}, flags...)
	p.Restart(t)
	return p
}

// Restart starts it again after it was ended, with the data it has, and waits until it is ready.
func (p *Prometheus) Restart(t testing.TB) {
	t.Helper()
	p.Process = Start(t, "prometheus", p.argv...)
	WaitReady(t, 30*time.Second, p.URL+"/-/ready")
}

// Series is one series of an instant query's answer.
type Series struct {
	Labels map[string]string
	Time   time.Time
	Value  float64
}

// Query evaluates an expression now.
func (p *Prometheus) Query(expr string) ([]Series, error) {
	status, body, err := Get(p.URL + "/api/v1/query?query=" + url.QueryEscape(expr))
	if err != nil {
		return nil, err
	}
	var answer struct {
		Status, Error string
		Data          struct {
			ResultType string
			Result     []struct {
				Metric map[string]string
				Value  [2]any
			}
		}
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		return nil, fmt.Errorf("query %s: status %d: %w", expr, status, err)
	}
	if status != http.StatusOK || answer.Status != "success" {
		return nil, fmt.Errorf("query %s: status %d: %s", expr, status, answer.Error)
	}
	var all []Series
	for _, r := range answer.Data.Result {
		seconds, ok := r.Value[0].(float64)
		text, ok2 := r.Value[1].(string)
		if !ok || !ok2 {
			return nil, fmt.Errorf("query %s: unexpected answer %s", expr, body)
		}
		v, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil, fmt.Errorf("query %s: %w", expr, err)
		}
		all = append(all, Series{Labels: r.Metric, Time: time.UnixMilli(int64(math.Round(seconds * 1000))), Value: v})
	}
	return all, nil
}

// One evaluates an expression that has exactly one series and returns its value.
func (p *Prometheus) One(expr string) (float64, error) {
	all, err := p.Query(expr)
	if err != nil {
		return 0, err
	}
	if len(all) == 0 {
		return 0, errors.New("no series for " + expr)
	}
	if len(all) > 1 {
		return 0, fmt.Errorf("%d series for %s", len(all), expr)
	}
	return all[0].Value, nil
}

// Rewrite replaces its configuration file, which it reads again when it gets SIGHUP.
func (p *Prometheus) Rewrite(t testing.TB, config string) {
	t.Helper()
	if err := os.WriteFile(p.config, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
}

// StartPrometheusFile is StartPrometheus with a configuration file that stays where it is, as the files do that it names.
func StartPrometheusFile(t testing.TB, port int, path string, flags ...string) *Prometheus {
	t.Helper()
	address := fmt.Sprintf("127.0.0.1:%d", port)
	p := &Prometheus{URL: "http://" + address}
	p.argv = append([]string{Server(t, "prometheus"), "--config.file=" + path, "--storage.tsdb.path=" + filepath.Join(t.TempDir(), "tsdb"),
		"--web.listen-address=" + address}, flags...)
	p.Restart(t)
	return p
}
