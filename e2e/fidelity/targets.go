//go:build fidelity

package fidelity

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// job is one scrape config, as both are given it.
type job struct {
	name    string
	config  string // what the block has besides, indented by two
	targets []*exporter
	file    bool // its targets are in a file
}

// fleet is all that is scraped.
type fleet struct {
	w    *world
	jobs []*job
	all  map[string]*exporter
	dir  string
	part bool // only some of them
}

func (s *fleet) add(t testing.TB, name, config string, answers func(int) answer) {
	t.Helper()
	e := startExporter(t, name, answers)
	s.all[name] = e
	s.jobs = append(s.jobs, &job{name: name, config: config, targets: []*exporter{e}})
}

// yaml is the scrape_configs, without the jobs named.
func (s *fleet) yaml(without ...string) string {
	var b strings.Builder
	b.WriteString("scrape_configs:\n")
next:
	for _, j := range s.jobs {
		for _, name := range without {
			if j.name == name {
				continue next
			}
		}
		fmt.Fprintf(&b, "- job_name: %s\n", j.name)
		for line := range strings.Lines(strings.TrimSpace(j.config)) {
			fmt.Fprintf(&b, "  %s\n", strings.TrimRight(line, "\n"))
		}
		if j.file {
			fmt.Fprintf(&b, "  file_sd_configs: [{files: [%q]}]\n", s.path(j.name))
			continue
		}
		b.WriteString("  static_configs:\n")
		for _, e := range j.targets {
			fmt.Fprintf(&b, "  - targets: [%q]\n    labels: {who: %s, site: here}\n", e.address, e.name)
		}
	}
	return b.String()
}

func (s *fleet) path(job string) string { return filepath.Join(s.dir, job+".yaml") }

// slowerConfig becomes slowerLater in the middle.
const slowerConfig, slowerLater = "scrape_interval: 1501ms", "scrape_interval: 2900ms"

const untimed = "honor_timestamps: false"

// newFleet starts the targets; size is the number of series of a large one.
func newFleet(t testing.TB, w *world, size int) *fleet {
	s := &fleet{w: w, all: map[string]*exporter{}, dir: t.TempDir()}
	for f := range formats {
		config := map[format]string{
			text004:     "scrape_protocols: [PrometheusText0.0.4]",
			text100:     "scrape_protocols: [PrometheusText1.0.0]",
			openMetrics: "scrape_protocols: [OpenMetricsText1.0.0]",
			protobuf:    "scrape_protocols: [PrometheusProto]",
			native:      "scrape_native_histograms: true",
		}[f]
		s.add(t, "bulk-"+f.String(), config, w.bulk("bulk"+f.String(), f, size))
		s.add(t, "mixed-"+f.String(), config, w.mixed("mixed"+f.String(), f))
		s.add(t, "nhcb-"+f.String(), config+"\nconvert_classic_histograms_to_nhcb: true\n", w.mixed("nhcb"+f.String(), f))
	}
	s.add(t, "default", "", w.mixed("default", openMetrics))
	s.add(t, "changing", "scrape_native_histograms: true", w.changing("changing"))
	s.add(t, "native-classic", "scrape_native_histograms: true\nalways_scrape_classic_histograms: true", w.mixed("native-classic", native))
	s.add(t, "native-both", "scrape_native_histograms: true\nalways_scrape_classic_histograms: true\nconvert_classic_histograms_to_nhcb: true", w.mixed("native-both", native))
	s.add(t, "native-limit", "scrape_native_histograms: true\nnative_histogram_bucket_limit: 25", w.mixed("native-limit", native))
	s.add(t, "native-factor", "scrape_native_histograms: true\nnative_histogram_min_bucket_factor: 1.4", w.mixed("native-factor", native))

	s.add(t, "timed-text", "", w.timed("timed-text", text004))
	s.add(t, "timed-tracked", "track_timestamps_staleness: true", w.timed("timed-tracked", text100))
	s.add(t, "timed-openmetrics", "track_timestamps_staleness: true", w.timed("timed-openmetrics", openMetrics))
	s.add(t, "timed-ignored", untimed, w.timed("timed-ignored", text004))
	s.add(t, "timed-proto", "scrape_native_histograms: true", w.timedFamilies("timed-proto"))
	s.add(t, "timed-proto-tracked", "scrape_native_histograms: true\ntrack_timestamps_staleness: true", w.timedFamilies("timed-proto-tracked"))

	s.add(t, "clash", "", clashing)
	s.add(t, "clash-honored", "honor_labels: true", clashing)
	s.add(t, "repeated", "", w.repeated(text004))
	s.add(t, "repeated-untimed", untimed, w.repeated(text100))
	s.add(t, "rewritten", `metric_relabel_configs:
- {source_labels: [__name__], regex: raw_0, action: drop}
- {source_labels: [__name__], regex: 'raw_(.*)', target_label: __name__, replacement: cooked_$1}
- {regex: secret, action: labeldrop}
- {source_labels: [id, who], modulus: 7, target_label: part, action: hashmod}
- {source_labels: [__name__, id], regex: 'cooked_2;.*', target_label: id, replacement: ''}
- {source_labels: [zone], regex: z1, target_label: instance, replacement: moved}
`, w.rewritten("rewritten"))
	s.add(t, "renamed", `params: {module: [a, b]}
relabel_configs:
- {target_label: job, replacement: another}
- {source_labels: [__address__], regex: '.*:(.*)', target_label: instance, replacement: 'port-$1'}
- {target_label: __metrics_path__, replacement: /probe}
- {target_label: __param_target, replacement: 'x y'}
- {source_labels: [__param_module], target_label: module}
- {target_label: 'label.with dots', replacement: ü}
`, w.mixed("renamed", text004))
	for _, scheme := range []string{"dots", "values"} {
		s.add(t, "escaped-"+scheme, "metric_name_validation_scheme: legacy\nmetric_name_escaping_scheme: "+scheme, w.mixed("escaped-"+scheme, text004))
	}
	s.add(t, "batches", "", w.batches(text004, 3, "all", "new", "flapping"))
	s.add(t, "batches-tracked", "track_timestamps_staleness: true", w.batches(text100, 1, "all", "new"))
	s.add(t, "batches-openmetrics", "", w.batches(openMetrics, 2, "all", "new", "flapping", "exemplars"))
	s.add(t, "batches-ignored", untimed, w.batches(text004, 1, "new"))
	s.add(t, "openmetrics-types", "", w.openMetricsTypes)
	s.add(t, "shared-a", "", w.mixed("shared-a", text004))
	shared := s.all["shared-a"]
	shared.second = &exporter{name: "shared-b", address: shared.address, answers: w.mixed("shared-b", text100), t: t, stop: shared.stop}
	s.all["shared-b"] = shared.second
	s.jobs = append(s.jobs, &job{name: "shared-b", config: "metrics_path: /second", targets: []*exporter{shared.second}})
	s.add(t, "slower", slowerConfig, w.mixed("slower", text004))
	s.add(t, "escaped", "metric_name_validation_scheme: legacy\nmetric_name_escaping_scheme: underscores", w.mixed("escaped", text004))

	config := map[string]string{
		"samples": fmt.Sprint("sample_limit: ", sampleLimit), "large": "body_size_limit: 4KB", "labels": "label_limit: 7",
		"longname": "label_name_length_limit: 80", "longvalue": "label_value_length_limit: 200",
	}
	for name, how := range w.failures() {
		s.add(t, "fails-"+name, config[name], w.failing("fails-"+name, how))
	}
	s.add(t, "fallback", "fallback_scrape_protocol: PrometheusText1.0.0", w.failing("fallback", w.failures()["untold"]))
	hanging := func(int, answer) answer { return answer{act: hang} }
	s.add(t, "fails-hang", "scrape_timeout: 1200ms", w.failing("fails-hang", hanging))
	s.add(t, "refused", "", w.mixed("refused", text004))
	steady := *w // how long they are there differs by a scrape or two
	steady.steady = true
	s.add(t, "removed-file", "", steady.mixed("removed-file", native))
	s.jobs[len(s.jobs)-1].file = true
	s.add(t, "returning", "", steady.mixed("returning", text004))
	s.jobs[len(s.jobs)-1].file = true
	s.add(t, "removed-reload", "", steady.mixed("removed-reload", text100))
	s.add(t, "relabelled", "", steady.mixed("relabelled", text004))
	return s
}
