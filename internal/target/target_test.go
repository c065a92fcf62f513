package target

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"
)

var minute = Schedule{Interval: time.Minute}

func TestFromJobLabels(t *testing.T) {
	for _, tc := range []struct {
		name, url, instance string
	}{
		{"", "http://host/metrics", "host:80"},
		{"", "https://host/metrics", "host:443"},
		{"", "HTTPS://host", "host:443"},
		{"", "http://host:9100/metrics", "host:9100"},
		{"", "http://[::1]/metrics", "[::1]:80"},
		{"", "http://[::1]:9100/metrics?x=1#y", "[::1]:9100"},
		{"", "http://user:secret@host:1/", "host:1"},
		{"choria1", "http://host:8222/choria/prometheus", "choria1"},
		{"a/b c:ü?x=1", "http://host", "a/b c:ü?x=1"},
	} {
		got, err := FromJob("j", tc.name, tc.url, minute, labels.EmptyLabels())
		if err != nil {
			t.Errorf("%s: %v", tc.url, err)
			continue
		}
		if want := labels.FromStrings("job", "j", "instance", tc.instance); !labels.Equal(got.Labels, want) {
			t.Errorf("%s: labels %s, want %s", tc.url, got.Labels, want)
		}
		if got.URL != tc.url || !got.HonorTimestamps || got.HonorLabels || got.Timeout != time.Minute {
			t.Errorf("%s: made %+v", tc.url, got)
		}
	}
}

func TestExternalLabelsFillOnly(t *testing.T) {
	got, err := FromJob("j", "i", "http://h", minute, labels.FromStrings("site", "eu", "job", "other", "instance", "x"))
	if err != nil {
		t.Fatal(err)
	}
	if want := labels.FromStrings("instance", "i", "job", "j", "site", "eu"); !labels.Equal(got.Labels, want) {
		t.Errorf("labels %s, want %s", got.Labels, want)
	}
}

func TestFromJobRefuses(t *testing.T) {
	for _, tc := range []struct {
		job, name, url string
		s              Schedule
		want           string
	}{
		{"", "n", "http://h", minute, "no name"},
		{"j", "n", "", minute, "empty"},
		{"j", "n", "host:9100/metrics", minute, "neither http"},
		{"j", "n", "//host", minute, "no scheme"},
		{"j", "n", "ftp://host", minute, "neither http"},
		{"j", "n", "http://:80/", minute, "no host"},
		{"j", "n", "http://u:hunter2@h/%zz", minute, "cannot be read"},
		{"j", "n", "http://h", Schedule{}, "not positive"},
		{"j", "n", "http://h", Schedule{Interval: 1, Timeout: -1}, "negative"},
		{"j", "a\xff", "http://h", minute, "UTF-8"},
	} {
		_, err := FromJob(tc.job, tc.name, tc.url, tc.s, labels.EmptyLabels())
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: error %v, want one with %q", tc, err, tc.want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error shows a password: %v", err)
		}
	}
}

func TestFromSelf(t *testing.T) {
	got, err := FromSelf("edge1", "", minute, labels.FromStrings("site", "eu"))
	if err != nil {
		t.Fatal(err)
	}
	if !got.Self || got.Job() != SelfJob || got.Instance() != "edge1" || got.Labels.Get("site") != "eu" {
		t.Errorf("made %+v", got)
	}
	if _, err := FromSelf("", "", minute, labels.EmptyLabels()); err == nil {
		t.Error("an empty identity was taken")
	}
}

func TestTimeoutIsAtMostTheInterval(t *testing.T) {
	for _, tc := range []struct{ timeout, want time.Duration }{
		{0, time.Minute}, {time.Second, time.Second}, {time.Hour, time.Minute},
	} {
		got, err := FromJob("j", "", "http://h", Schedule{time.Minute, tc.timeout}, labels.EmptyLabels())
		if err != nil || got.Timeout != tc.want {
			t.Errorf("timeout %s became %v, %v, want %s", tc.timeout, got, err, tc.want)
		}
	}
}

func TestKeyTellsEverySettingApart(t *testing.T) {
	fresh := func() *Target {
		tg, err := FromJob("j", "", "http://h", minute, labels.FromStrings("a", "b"))
		if err != nil {
			t.Fatal(err)
		}
		return tg
	}
	rc := func(regex string) []*relabel.Config {
		return []*relabel.Config{{Regex: relabel.MustNewRegexp(regex), Action: relabel.Drop}}
	}
	seen := map[string]int{fresh().Key(): -1}
	if again := fresh().Key(); again != fresh().Key() {
		t.Error("equal targets have different keys")
	}
	for i, change := range []func(*Target){
		func(g *Target) { g.Labels = labels.FromStrings("job", "j", "instance", "h:80", "ab", "") },
		func(g *Target) { g.Labels = labels.FromStrings("job", "j", "instance", "h:80", "a", "c") },
		func(g *Target) { g.URL += "/" },
		func(g *Target) { g.Interval++ },
		func(g *Target) { g.Timeout-- },
		func(g *Target) { g.HonorLabels = true },
		func(g *Target) { g.HonorTimestamps = false },
		func(g *Target) { g.Self = true },
		func(g *Target) { g.BodySizeLimit = 1 },
		func(g *Target) { g.SampleLimit = 1 },
		func(g *Target) { g.LabelLimit = 1 },
		func(g *Target) { g.LabelNameLengthLimit = 1 },
		func(g *Target) { g.LabelValueLengthLimit = 1 },
		func(g *Target) { g.Relabel = rc("x") },
		func(g *Target) { g.Relabel = rc("y") },
		func(g *Target) { g.Relabel = append(rc("x"), rc("y")...) },
	} {
		g := fresh()
		change(g)
		if j, ok := seen[g.Key()]; ok {
			t.Errorf("change %d has the key of change %d", i, j)
		}
		seen[g.Key()] = i
	}
}

func TestOffsetSpreadsAndStays(t *testing.T) {
	const n, parts = 1000, 10
	interval := time.Minute
	var count [parts]int
	moved := 0
	for i := range n {
		url := "http://h/" + strings.Repeat("x", i%40) + string(rune('a'+i%26)) + time.Duration(i).String()
		tg, err := FromJob("j", "", url, minute, labels.EmptyLabels())
		if err != nil {
			t.Fatal(err)
		}
		o := tg.Offset(interval, Seed("edge1"))
		if o < 0 || o >= interval {
			t.Fatalf("offset %s is outside of %s", o, interval)
		}
		if o != tg.Offset(interval, Seed("edge1")) {
			t.Fatal("the offset changed")
		}
		if o != tg.Offset(interval, Seed("edge2")) {
			moved++
		}
		count[o*parts/interval]++
	}
	for i, c := range count {
		if c < n/parts/2 || c > n/parts*2 {
			t.Errorf("part %d of the interval has %d of %d targets", i, c, n)
		}
	}
	if moved < n*9/10 {
		t.Errorf("another seed moved only %d of %d targets", moved, n)
	}
	if o := (&Target{}).Offset(0, 1); o != 0 {
		t.Errorf("no interval gave offset %s", o)
	}
}

func TestNextKeepsItsPlace(t *testing.T) {
	tg, err := FromJob("j", "", "http://h", Schedule{Interval: 15 * time.Second}, labels.EmptyLabels())
	if err != nil {
		t.Fatal(err)
	}
	seed := Seed("edge1")
	start := time.Unix(1_800_000_000, 123)
	first := tg.Next(start, seed)
	if first.Before(start) || !first.Before(start.Add(tg.Interval)) {
		t.Fatalf("next after %s is %s", start, first)
	}
	if got := tg.Next(first, seed); !got.Equal(first) {
		t.Errorf("next at its own moment is %s, want %s", got, first)
	}
	if got, want := tg.Next(first.Add(1), seed), first.Add(tg.Interval); !got.Equal(want) {
		t.Errorf("next after it is %s, want %s", got, want)
	}
	if got := first.UnixNano() % int64(tg.Interval); got != int64(tg.Offset(tg.Interval, seed)) {
		t.Errorf("next is at %d of its interval, not at the offset", got)
	}
}
