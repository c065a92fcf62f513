package pushgateway

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"
)

// fakeGateway is as strict as the real one: it decodes paths as that does and refuses what makes its page inconsistent.
// It is also a RoundTripper, so that tests need no network.
type fakeGateway struct {
	mu       sync.Mutex
	groups   map[string]map[string]*dto.MetricFamily // by "label=value,…", then by name
	log      []string                                // "PUT job=a,instance=b"
	bodies   []string
	types    []string       // the Content-Type of each body
	inFlight map[string]int // by group
	all, top int            // pushes on their way now, and at most

	// before may answer in the gateway's place, or wait.
	before func(group string, w http.ResponseWriter, r *http.Request) (answered bool)
	// noGzip: as before version 1.5.0. legacy: as without UTF-8 names. noProtobuf: as others that speak the gateway's
	// protocol.
	noGzip, legacy, noProtobuf bool
	// unchecked: as with --push.disable-consistency-check.
	unchecked bool
	// own are the gateway's own metrics on its page.
	own []*dto.MetricFamily
}

func newFake() *fakeGateway {
	return &fakeGateway{groups: make(map[string]map[string]*dto.MetricFamily), inFlight: make(map[string]int)}
}

func (f *fakeGateway) client() *http.Client { return &http.Client{Transport: f} }

func (f *fakeGateway) RoundTrip(r *http.Request) (*http.Response, error) {
	type result struct {
		resp *http.Response
	}
	done := make(chan result, 1)
	go func() {
		w := httptest.NewRecorder()
		f.ServeHTTP(w, r)
		resp := w.Result()
		resp.Request = r
		done <- result{resp}
	}()
	select {
	case d := <-done:
		return d.resp, nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

// groupOf decodes a path as the gateway's handler does.
func groupOf(path string) (string, error) {
	rest, ok := strings.CutPrefix(path, "/metrics/")
	if !ok {
		return "", fmt.Errorf("not a push path: %q", path)
	}
	parts := strings.Split(rest, "/")
	if len(parts)%2 != 0 {
		return "", fmt.Errorf("odd number of components in label string %q", rest)
	}
	var out []string
	for i := 0; i < len(parts); i += 2 {
		name, value := parts[i], parts[i+1]
		if n, ok := strings.CutSuffix(name, "@base64"); ok {
			b, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(value, "="))
			if err != nil {
				return "", err
			}
			name, value = n, string(b)
		}
		if !model.LegacyValidation.IsValidLabelName(name) {
			return "", fmt.Errorf("improper label name %q", name)
		}
		if i == 0 && (name != "job" || value == "") {
			return "", fmt.Errorf("job name is required")
		}
		out = append(out, name+"="+value)
	}
	return strings.Join(out, ","), nil
}

func (f *fakeGateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	group, err := groupOf(r.URL.Path)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	f.mu.Lock()
	f.log = append(f.log, r.Method+" "+group)
	f.inFlight[group]++
	if f.inFlight[group] > 1 {
		f.log = append(f.log, "TWO AT ONCE "+group)
	}
	f.all++
	f.top = max(f.top, f.all)
	before := f.before
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.inFlight[group]--
		f.all--
		f.mu.Unlock()
	}()
	if before != nil && before(group, w, r) {
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.Method == http.MethodDelete {
		delete(f.groups, group)
		w.WriteHeader(http.StatusAccepted)
		return
	}
	if r.Header.Get("Content-Encoding") == "gzip" && !f.noGzip {
		z, err := gzip.NewReader(bytes.NewReader(body))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if body, err = io.ReadAll(z); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	f.bodies = append(f.bodies, string(body))
	f.types = append(f.types, r.Header.Get("Content-Type"))
	if err := f.store(group, r.Header.Get("Content-Type"), string(body), r.Method == http.MethodPut); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
}

// parse reads a body as the gateway's handler does: of two families of one name the last one counts.
func (f *fakeGateway) parse(contentType, body string) (map[string]*dto.MetricFamily, error) {
	if contentType != protobufType || f.noProtobuf {
		scheme := model.UTF8Validation
		if f.legacy {
			scheme = model.LegacyValidation
		}
		parser := expfmt.NewTextParser(scheme)
		return parser.TextToMetricFamilies(strings.NewReader(body))
	}
	families := map[string]*dto.MetricFamily{}
	for in := strings.NewReader(body); in.Len() > 0; {
		mf := &dto.MetricFamily{}
		if err := protodelim.UnmarshalFrom(in, mf); err != nil {
			return nil, err
		}
		families[mf.GetName()] = mf
	}
	return families, nil
}

func (f *fakeGateway) store(group, contentType, body string, replace bool) error {
	families, err := f.parse(contentType, body)
	if err != nil {
		return err
	}
	grouping := map[string]string{}
	for _, kv := range strings.Split(group, ",") {
		k, v, _ := strings.Cut(kv, "=")
		grouping[k] = v
	}
	next := map[string]*dto.MetricFamily{}
	if !replace {
		maps.Copy(next, f.groups[group])
	}
	for name, mf := range families {
		for _, m := range mf.Metric {
			if m.TimestampMs != nil {
				return fmt.Errorf("pushed metrics must not have timestamps")
			}
			for k, v := range grouping {
				for _, l := range m.Label {
					if l.GetName() == k {
						return fmt.Errorf("the body has the group's label %s", k) // stricter than the real one
					}
				}
				m.Label = append(m.Label, &dto.LabelPair{Name: proto.String(k), Value: proto.String(v)})
			}
			slices.SortFunc(m.Label, func(a, b *dto.LabelPair) int { return strings.Compare(a.GetName(), b.GetName()) })
		}
		next[name] = mf
	}
	old := f.groups[group]
	f.groups[group] = next
	if f.unchecked {
		return nil
	}
	if _, err := f.page(); err != nil {
		if f.groups[group] = old; old == nil {
			f.groups[group] = map[string]*dto.MetricFamily{} // the real one has push_failure_time_seconds now
		}
		return fmt.Errorf("pushed metrics are invalid or inconsistent with existing metrics: %w", err)
	}
	return nil
}

// page gathers everything as a scrape would; the registry's code finds what is inconsistent.
func (f *fakeGateway) page() ([]*dto.MetricFamily, error) {
	merged := map[string]*dto.MetricFamily{}
	for _, name := range slices.Sorted(maps.Keys(f.groups)) {
		for n, mf := range f.groups[name] {
			have := merged[n]
			if have == nil {
				have = &dto.MetricFamily{Name: mf.Name, Help: mf.Help, Type: mf.Type}
				merged[n] = have
			}
			have.Metric = append(have.Metric, mf.Metric...)
		}
	}
	return prometheus.Gatherers{
		prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { return f.own, nil }),
		prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
			out := slices.Collect(maps.Values(merged))
			slices.SortFunc(out, func(a, b *dto.MetricFamily) int { return strings.Compare(a.GetName(), b.GetName()) })
			return out, nil
		}),
	}.Gather()
}

// exposed gives the lines of a group: name{labels without those of the group} value.
func (f *fakeGateway) exposed(group string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for name, mf := range f.groups[group] {
		for _, m := range mf.Metric {
			out = append(out, fmt.Sprintf("%s %s%s %s", strings.ToLower(mf.GetType().String()), name, labelText(m, group), valueText(m)))
		}
	}
	slices.Sort(out)
	return out
}

// has tells whether the group is there.
func (f *fakeGateway) has(group string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.groups[group] != nil
}

func (f *fakeGateway) names() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.groups))
}

func (f *fakeGateway) requests() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.log)
}

func (f *fakeGateway) setBefore(before func(group string, w http.ResponseWriter, r *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before = before
}

func labelText(m *dto.Metric, group string) string {
	var out []string
	for _, l := range m.Label {
		if !strings.Contains(","+group+",", ","+l.GetName()+"="+l.GetValue()+",") {
			out = append(out, l.GetName()+"="+l.GetValue())
		}
	}
	if out == nil {
		return ""
	}
	return "{" + strings.Join(out, ",") + "}"
}

func valueText(m *dto.Metric) string {
	switch {
	case m.Counter != nil:
		return fmt.Sprint(m.Counter.GetValue())
	case m.Gauge != nil:
		return fmt.Sprint(m.Gauge.GetValue())
	case m.Untyped != nil:
		return fmt.Sprint(m.Untyped.GetValue())
	case m.Summary != nil:
		out := fmt.Sprintf("count=%d sum=%g", m.Summary.GetSampleCount(), m.Summary.GetSampleSum())
		for _, q := range m.Summary.Quantile {
			out += fmt.Sprintf(" %g=%g", q.GetQuantile(), q.GetValue())
		}
		return out
	default:
		out := fmt.Sprintf("count=%d sum=%g", m.Histogram.GetSampleCount(), m.Histogram.GetSampleSum())
		if h := m.Histogram; h.Schema != nil {
			out += fmt.Sprintf(" schema=%d deltas=%v counts=%v", h.GetSchema(), h.PositiveDelta, h.PositiveCount)
		}
		if n := len(m.Histogram.Exemplars); n > 0 {
			out += fmt.Sprintf(" exemplars=%d", n)
		}
		for _, b := range m.Histogram.Bucket {
			out += fmt.Sprintf(" %g=%d", b.GetUpperBound(), b.GetCumulativeCount())
		}
		return out
	}
}
