// Package target says what is scraped: where it answers, under which labels its series go out, how often it is asked
// and what is allowed of it. It knows nothing of how a scrape is done.
//
// A Target is made of a job's URL (FromJob), of this process (FromSelf), or by a Manager of what Prometheus' service
// discovery and target relabelling make of scrape configs.
package target

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"io"
	"reflect"
	"time"

	commonconfig "github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	promconfig "github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"
	promscrape "github.com/prometheus/prometheus/scrape"
)

// SelfJob is the job of the target that is this process itself.
const SelfJob = "prometheus_streams"

// Target is one thing to scrape. It is immutable once made and may be shared: who needs another one makes another one.
type Target struct {
	// Labels are the target's own labels and, of the external ones, those whose names it lacks; job and instance are
	// among them.
	Labels labels.Labels
	// External are the external labels among Labels: a series that has a label of such a name keeps it.
	External labels.Labels
	// Pool is the scrape pool: the name of the scrape config or job that the target comes from.
	Pool string
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
	// TrackTimestamps is track_timestamps_staleness: series with timestamps of their own end in stale markers too.
	TrackTimestamps bool
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
	// Client says how requests are made; nil is as Prometheus makes them for a scrape config without HTTP settings.
	Client *Client
	// Uncompressed asks for a body that is not compressed.
	Uncompressed bool
	// Protocols are the formats that are asked for, the most wanted first; none are Prometheus' default ones.
	Protocols []promconfig.ScrapeProtocol
	// FallbackProtocol reads a body whose Content-Type says nothing; with an empty one that is not Strict it is text.
	FallbackProtocol promconfig.ScrapeProtocol
	// Strict fails a scrape whose Content-Type says nothing, unless there is a fallback protocol, as Prometheus does.
	Strict bool
	// Escaping is how the target is asked to escape names, and Validation which names are legal; the zero values are
	// not at all, and UTF-8.
	Escaping   string
	Validation model.ValidationScheme
	// NativeHistograms, ClassicHistograms and ConvertHistograms are Prometheus' scrape_native_histograms,
	// always_scrape_classic_histograms and convert_classic_histograms_to_nhcb.
	NativeHistograms, ClassicHistograms, ConvertHistograms bool
	// BucketLimit and MinBucketFactor are native_histogram_bucket_limit and native_histogram_min_bucket_factor.
	BucketLimit     int
	MinBucketFactor float64
	// FailureLog is a file to which failed scrapes are logged; empty is none.
	FailureLog string
	// Refused, if not empty, says why the target is not asked: every scrape of it fails with this.
	Refused string
	// Self marks the target that is this process: its registry is read without a request.
	Self bool

	origin *promscrape.Target // what discovery and relabelling say of it; nil if it is of a job
	place  uint64             // Prometheus' hash of the target, if not 0
	key    string             // if not empty, what Key says
}

// Client is how the targets of one scrape config are asked. It is shared by them.
type Client struct {
	// Name is that of the scrape pool.
	Name string
	// HTTP are Prometheus' settings, secrets among them.
	HTTP commonconfig.HTTPClientConfig
	// Socket is the path of a Unix socket to connect to instead of the URL's host, or empty.
	Socket string
	// ID is the same for two clients if and only if all the others are.
	ID string
}

// NewClient makes a Client with its ID.
func NewClient(name string, h commonconfig.HTTPClientConfig, socket string) *Client {
	sum := sha256.New()
	_, _ = fmt.Fprintf(sum, "%q %q ", name, socket)
	fingerprint(sum, reflect.ValueOf(h), 0)
	return &Client{Name: name, HTTP: h, Socket: socket, ID: hex.EncodeToString(sum.Sum(nil)[:16])}
}

// Discovered are the labels that discovery gave, before relabelling; of a target of a job those that it has.
func (t *Target) Discovered() labels.Labels {
	if t.origin == nil {
		return t.Labels
	}
	return t.origin.DiscoveredLabels(labels.NewBuilder(labels.EmptyLabels()))
}

// Spelled are interval and timeout as they were written: by relabelling, the scrape config or the global settings.
func (t *Target) Spelled() (interval, timeout string) {
	if t.origin == nil {
		return model.Duration(t.Interval).String(), model.Duration(t.Timeout).String()
	}
	return t.origin.GetValue(model.ScrapeIntervalLabel), t.origin.GetValue(model.ScrapeTimeoutLabel)
}

// Own are the labels of the target without the external ones: those that Prometheus shows of it.
func (t *Target) Own() labels.Labels {
	if t.External.IsEmpty() {
		return t.Labels
	}
	b := labels.NewBuilder(t.Labels)
	t.External.Range(func(l labels.Label) { b.Del(l.Name) })
	return b.Labels()
}

// Job is the job label of the target.
func (t *Target) Job() string { return t.Labels.Get("job") }

// Instance is the instance label of the target.
func (t *Target) Instance() string { return t.Labels.Get("instance") }

// Key is the same for two targets if and only if they are scraped alike: same labels, URL and settings. A target whose
// key changed is another target.
func (t *Target) Key() string {
	if t.key != "" {
		return t.key
	}
	h := sha256.New()
	field := func(format string, args ...any) {
		s := fmt.Sprintf(format, args...)
		_, _ = fmt.Fprintf(h, "%d:%s", len(s), s)
	}
	for _, ls := range []labels.Labels{t.Labels, t.External} {
		ls.Range(func(l labels.Label) {
			field("%s", l.Name)
			field("%s", l.Value)
		})
		field("")
	}
	field("%s", t.URL)
	field("%d %d %t %t %t %t", t.Interval, t.Timeout, t.HonorLabels, t.HonorTimestamps, t.TrackTimestamps, t.Self)
	field("%d %d %d %d %d", t.BodySizeLimit, t.SampleLimit, t.LabelLimit, t.LabelNameLengthLimit, t.LabelValueLengthLimit)
	if t.Client != nil {
		field("%s", t.Client.ID)
	}
	field("%t %t %q %q %q %d %q %q", t.Uncompressed, t.Strict, t.Protocols, t.FallbackProtocol, t.Escaping, t.Validation, t.FailureLog, t.Refused)
	field("%t %t %t %d %g", t.NativeHistograms, t.ClassicHistograms, t.ConvertHistograms, t.BucketLimit, t.MinBucketFactor)
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
	place := t.place
	if place == 0 {
		place = placeOf(t.Labels, t.URL)
	}
	return time.Duration((place ^ seed) % uint64(interval))
}

// placeOf is Prometheus' hash of a target, of which it makes the offset.
func placeOf(ls labels.Labels, url string) uint64 {
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%016d", ls.Hash())
	_, _ = io.WriteString(h, url)
	return h.Sum64()
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
