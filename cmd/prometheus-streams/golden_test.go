package main

import (
	"bytes"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// writeGolden puts messages into a script's directory: a schema, a bundle with a scrape and a failed one, and the bundle
// damaged.
func writeGolden(dir string) error {
	families := []frame.Family{{Name: "a", Type: model.MetricTypeCounter, Help: "As."}}
	series := []frame.Series{
		{Labels: labels.FromStrings("__name__", "a_total"), Family: 0, Base: 40},
		{Labels: labels.FromStrings("__name__", "b"), Family: -1, Base: 2.5},
	}
	schema, err := frame.NewSchema(families, series, frame.DefaultLimits())
	if err != nil {
		return err
	}
	t := &frame.Target{ID: 3, Labels: labels.FromStrings("job", "j", "instance", "i"), Interval: 15 * time.Second, Timeout: 10 * time.Second}
	enc := frame.NewEncoder(0xabc, t, frame.EncoderOptions{})
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).UnixMilli()
	frames, err := enc.AppendScrape(nil, now, frame.Report{Duration: time.Millisecond, Scraped: 2, PostRelabel: 2, Added: 2}, schema, &frame.Column{Values: []float64{41, 2.5}})
	if err != nil {
		return err
	}
	frames = enc.AppendDown(frames, now+15000, frame.Report{Duration: 10 * time.Second})
	frames = frame.AppendEpochEnd(frames, 0xabc, now+16000)
	bundle := frame.AppendBundle(nil, frame.Header{Publisher: "edge", Lane: "live", Epoch: 0xabc, Seq: 7}, frames)
	damaged := bytes.Clone(bundle)
	damaged[len(damaged)/2] ^= 1

	for name, data := range map[string][]byte{
		"schema": schema.Marshal(), "bundle": bundle, "damaged": damaged, "truncated": bundle[:len(bundle)/2],
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}
