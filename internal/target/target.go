// Package target says what is scraped: where it answers, under which labels its series go out, how often it is asked
// and what is allowed of it. It knows nothing of how a scrape is done.
package target

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"io"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"
)

// SelfJob is the job of the target that is this process itself.
const SelfJob = "prometheus_streams"

// Target is one thing to scrape. It is immutable once made and may be shared: who needs another one makes another one.
type Target struct {
	// Labels are the labels that all series of the target get, job and instance among them.
	Labels labels.Labels
	// URL is asked for the exposition. It may hold credentials: log RedactedURL.
	URL string
	// Interval is the time from one scrape to the next.
	Interval time.Duration
	// Timeout bounds one scrape; it is at most Interval.
	Timeout time.Duration
	// HonorLabels keeps a label of the exposition that the target has too; else it is renamed to exported_*.
	HonorLabels bool
	// HonorTimestamps keeps the timestamps of the exposition.
	HonorTimestamps bool
	// Relabel are Prometheus' metric_relabel_configs.
	Relabel []*relabel.Config
	// BodySizeLimit bounds the uncompressed exposition in bytes; 0 takes the default of the scrape.
	BodySizeLimit int64
	// SampleLimit, LabelLimit, LabelNameLengthLimit and LabelValueLengthLimit have Prometheus' meaning:
	// a scrape that exceeds one of them fails. 0 is no limit.
	SampleLimit           int
	LabelLimit            int
	LabelNameLengthLimit  int
	LabelValueLengthLimit int
	// Self marks the target that is this process: its registry is read without a request.
	Self bool
}

// Job is the job label of the target.
func (t *Target) Job() string { return t.Labels.Get("job") }

// Instance is the instance label of the target.
func (t *Target) Instance() string { return t.Labels.Get("instance") }

// Key is the same for two targets if and only if they are scraped alike: same labels, URL and settings. A target whose
// key changed is another target.
func (t *Target) Key() string {
	h := sha256.New()
	field := func(format string, args ...any) {
		s := fmt.Sprintf(format, args...)
		_, _ = fmt.Fprintf(h, "%d:%s", len(s), s)
	}
	t.Labels.Range(func(l labels.Label) {
		field("%s", l.Name)
		field("%s", l.Value)
	})
	field("")
	field("%s", t.URL)
	field("%d %d %t %t %t", t.Interval, t.Timeout, t.HonorLabels, t.HonorTimestamps, t.Self)
	field("%d %d %d %d %d", t.BodySizeLimit, t.SampleLimit, t.LabelLimit, t.LabelNameLengthLimit, t.LabelValueLengthLimit)
	for _, c := range t.Relabel {
		field("%q %q %q %d %q %q %q", c.SourceLabels, c.Separator, c.Regex.String(), c.Modulus, c.TargetLabel, c.Replacement, c.Action)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// Seed makes of a publisher's identity the seed that Offset takes, so that two publishers with the same targets do not
// ask them at the same moment.
func Seed(identity string) uint64 {
	h := fnv.New64a()
	_, _ = io.WriteString(h, identity)
	return h.Sum64()
}

// Offset is when within each interval, counted from the Unix epoch, the target is scraped: 0 ≤ Offset < interval. It is
// a hash of labels, URL and seed, as Prometheus has it, so targets are spread evenly and keep their place over restarts.
// An interval that is not positive has no offset but 0.
func (t *Target) Offset(interval time.Duration, seed uint64) time.Duration {
	if interval <= 0 {
		return 0
	}
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%016d", t.Labels.Hash())
	_, _ = io.WriteString(h, t.URL)
	return time.Duration((h.Sum64() ^ seed) % uint64(interval))
}

// Next is the first moment at or after now at which the target is to be scraped.
func (t *Target) Next(now time.Time, seed uint64) time.Time {
	if t.Interval <= 0 {
		return now
	}
	interval := int64(t.Interval)
	wait := (int64(t.Offset(t.Interval, seed)) - now.UnixNano()%interval) % interval
	if wait < 0 {
		wait += interval
	}
	return now.Add(time.Duration(wait))
}
