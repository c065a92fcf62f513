package e2e

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

// A VictoriaMetrics that knows nothing but remote write 1.0, and says so only by taking 2.0 for an empty request, gets 1.0
// after the first request: every sample, stale markers, names of UTF-8.
func TestRemoteWriteToVictoriaMetrics(t *testing.T) {
	t.Parallel()
	central := harness.StartVictoriaMetrics(t, ports.Next(t))
	g, utf8 := targets.New(t, "alpha", 20), targets.New(t, "beta", 1)
	utf8.Answer(http.StatusOK, "text/plain; version=1.0.0; escaping=allow-utf-8", "# TYPE \"warteschlange.größe\" gauge\n"+
		"{\"warteschlange.größe\",\"ort.straße\"=\"Köln \\\"Süd\\\"\"} 4.5\n")
	p := startStandalone(t, standaloneYAML(t, "site", "1s", harness.JobsYAML("edge", g, utf8)+
		"remote_write:\n- url: "+central.URL+"/api/v1/write\n  name: central\n"))
	samples := func(series int) ([]harness.RawSample, error) {
		all, err := central.OneRaw(fmt.Sprintf(`{__name__=%q,job="edge",instance=%q,series="%d"}`, harness.ValueMetric, g.Name, series))
		// It keeps 15 decimal digits of a value.
		for i := range all {
			if want := harness.Value(g.ID, i+1, series); math.Abs(all[i].Value-want) < 1e-14*want {
				all[i].Value = want
			}
		}
		return all, err
	}
	for i := range 20 {
		harness.Wait(t, 30*time.Second, "scrapes are in VictoriaMetrics", func() error {
			all, err := samples(i)
			if err != nil {
				return err
			}
			_, err = compareSamples(all, g, i, 3)
			return err
		})
	}
	harness.Wait(t, 20*time.Second, "names of UTF-8 are there", func() error {
		all, err := central.OneRaw(`{__name__="warteschlange.größe",instance="beta",job="edge"}`)
		if err == nil && (len(all) == 0 || all[0].Value != 4.5) {
			err = fmt.Errorf("samples %v", all)
		}
		if err != nil {
			return err
		}
		// Selectors of this version have no such names of labels; a list of them has.
		_, body, err := harness.Get(central.URL + "/api/v1/label/" + url.PathEscape("ort.straße") + "/values")
		if err == nil && !strings.Contains(body, `Köln \"Süd\"`) {
			err = fmt.Errorf("values of the label: %s", body)
		}
		return err
	})
	g.Down()
	var down time.Time
	harness.Wait(t, 20*time.Second, "up is 0", func() error {
		all, err := central.OneRaw(fmt.Sprintf(`up{job="edge",instance=%q}`, g.Name))
		for _, s := range all {
			if s.Value == 0 && !s.Stale {
				down = s.Time
				return nil
			}
		}
		return errors.Join(err, errors.New("up is 1"))
	})
	for i := range 20 {
		all, err := samples(i)
		if err != nil {
			t.Fatal(err)
		}
		if last := all[len(all)-1]; !last.Stale || !last.Time.Equal(down) {
			t.Errorf("series %d ends with %+v, want a stale marker at %v", i, last, down)
		}
	}
	m := p.Metrics(t)
	if v := m.Sum("prometheus_streams_remote_write_protocol_version", nil); v != 1 {
		t.Errorf("version %v of remote write is spoken to VictoriaMetrics", v)
	}
	if n := m.Sum("prometheus_streams_remote_write_dropped_samples_total", nil); n != 0 {
		t.Errorf("%v samples dropped", n)
	}
}
