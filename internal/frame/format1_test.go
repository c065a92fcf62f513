package frame

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
)

// oldMessages are what was captured from version 1.0, by name.
func oldMessages(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("testdata/format1/*.json")
	if err != nil || len(files) != 4 {
		t.Fatalf("%d captured messages, %v", len(files), err)
	}
	out := make(map[string][]byte)
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		out[filepath.Base(f)] = bytes.TrimSpace(b)
	}
	return out
}

func zipped(text string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write([]byte(text))
	_ = z.Close()
	return base64.StdEncoding.EncodeToString(b.Bytes())
}

func TestFormat1Captured(t *testing.T) {
	for name, msg := range oldMessages(t) {
		m, err := ParseFormat1(msg, DefaultLimits())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !IsFormat1(msg) || m.Publisher != "DC1" || m.Job == "" || m.Instance == "" || m.Time < 1795374938 || len(m.Body) < 49 {
			t.Errorf("%s: %+v", name, m)
		}
		if _, _, _, ok := SplitReport(m.Body); ok {
			t.Errorf("%s: a report is found in what has none", name)
		}
		// Written by us, it is the same but for what the compressor makes of the body.
		ours, err := AppendFormat1(nil, m)
		if err != nil {
			t.Fatal(err)
		}
		theirs, _, _ := bytes.Cut(msg, []byte(`"Scrape":`))
		head, zip, _ := bytes.Cut(ours, []byte(`"Scrape":`))
		if !bytes.Equal(head, theirs) || !bytes.HasPrefix(zip, []byte(`"H4sI`)) || !bytes.HasSuffix(zip, []byte(`"}`)) {
			t.Errorf("%s: written %s\nversion 1.0 wrote %s", name, head, theirs)
		}
		back, err := ParseFormat1(ours, DefaultLimits())
		if err != nil || !bytes.Equal(back.Body, m.Body) {
			t.Errorf("%s: the body does not come back: %v", name, err)
		}
	}
}

func TestFormat1Escapes(t *testing.T) {
	in := &Format1{Job: `a"<b>&\`, Instance: "ü\u2028\n", Time: 1, Publisher: "x", Body: nil}
	msg, err := AppendFormat1([]byte("kept"), in)
	if err != nil || !bytes.HasPrefix(msg, []byte(`kept{"job":"a\"\u003cb\u003e\u0026\\"`)) { // as encoding/json of version 1.0 did
		t.Fatalf("%s, %v", msg, err)
	}
	out, err := ParseFormat1(msg[4:], DefaultLimits())
	if err != nil || out.Job != in.Job || out.Instance != in.Instance || len(out.Body) != 0 {
		t.Errorf("%+v, %v", out, err)
	}
}

func TestFormat1Reading(t *testing.T) {
	good := zipped("a 1\n")
	bomb := zipped(strings.Repeat("a", format1Body+1))
	limit := func(err error) bool { var l *LimitError; return errors.As(err, &l) }
	malformed := func(err error) bool { return errors.Is(err, ErrMalformed) }
	for name, c := range map[string]struct {
		msg string
		bad func(error) bool // nil: it is good
	}{
		"unknown keys":    {`{"job":"j","x":{"y":[1]},"time":1,"Scrape":"` + good + `"}`, nil},
		"other case":      {`{"JOB":"j","Time":1,"scrape":"` + good + `"}`, nil},
		"blanks around":   {" \r\n\t" + `{"job":"j","time":1,"Scrape":"` + good + `"}` + "\n", nil},
		"no scrape":       {`{"job":"j","time":1}`, malformed},
		"no time":         {`{"job":"j","Scrape":"` + good + `"}`, func(err error) bool { return errors.Is(err, ErrNoTime) && malformed(err) }},
		"time 0":          {`{"job":"j","time":0,"Scrape":"` + good + `"}`, func(err error) bool { return errors.Is(err, ErrNoTime) }},
		"time in words":   {`{"job":"j","time":"now","Scrape":"` + good + `"}`, malformed},
		"time too large":  {`{"job":"j","time":9223372036854775807,"Scrape":"` + good + `"}`, malformed},
		"not JSON":        {`{"job":`, malformed},
		"something after": {`{"job":"j","time":1,"Scrape":"` + good + `"}{}`, malformed},
		"not base64":      {`{"job":"j","time":1,"Scrape":"!!!!"}`, malformed},
		"not gzip":        {`{"job":"j","time":1,"Scrape":"YWJjZGVmZ2hpamtsbW5vcA=="}`, malformed},
		"gzip cut short":  {`{"job":"j","time":1,"Scrape":"` + base64.StdEncoding.EncodeToString(mustDecode(good)[:20]) + `"}`, func(err error) bool { return errors.Is(err, ErrTruncated) }},
		"gzip damaged":    {`{"job":"j","time":1,"Scrape":"` + base64.StdEncoding.EncodeToString(flip(mustDecode(good))) + `"}`, malformed},
		"gzip bomb":       {`{"job":"j","time":1,"Scrape":"` + bomb + `"}`, limit},
		"long name":       {`{"job":"` + strings.Repeat("j", format1Name+1) + `","time":1,"Scrape":"` + good + `"}`, limit},
	} {
		m, err := ParseFormat1([]byte(c.msg), DefaultLimits())
		switch {
		case !IsFormat1([]byte(c.msg)):
			t.Errorf("%s: not recognised", name)
		case c.bad == nil && (err != nil || m.Job != "j" || string(m.Body) != "a 1\n"):
			t.Errorf("%s: %+v, %v", name, m, err)
		case c.bad != nil && !c.bad(err):
			t.Errorf("%s: error %v", name, err)
		}
	}
	if _, err := ParseFormat1([]byte("{}"), Limits{MessageBytes: 1}); !limit(err) {
		t.Errorf("a message above the limit: %v", err)
	}
	if IsFormat1(AppendBundle(nil, Header{Publisher: "{"}, nil)) || IsFormat1(nil) {
		t.Error("something else is taken for format 1")
	}
}

func mustDecode(s string) []byte {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// flip changes a bit of the checksum.
func flip(b []byte) []byte {
	b[len(b)-6] ^= 1
	return b
}

func TestFormat1Report(t *testing.T) {
	r := Report{Duration: 1500 * time.Millisecond, Scraped: 3, PostRelabel: 2, Added: 1}
	const lines = "up 1\nscrape_duration_seconds 1.5\nscrape_samples_scraped 3\nscrape_samples_post_metric_relabeling 2\nscrape_series_added 1\n"
	for body, whole := range map[string]string{"": lines, "a 1\n": "a 1\n" + lines, "a 1": "a 1\n" + lines, "a 1\r\n": "a 1\r\n" + lines} {
		got := AppendReport([]byte(body), true, r)
		if string(got) != whole {
			t.Errorf("%q becomes %q", body, got)
		}
		rest, up, back, ok := SplitReport(got)
		if !ok || !up || back != r || strings.TrimSuffix(string(rest), "\n") != strings.TrimSuffix(body, "\n") {
			t.Errorf("%q comes back as %q, %v, %+v, %v", body, rest, up, back, ok)
		}
	}
	if _, up, _, ok := SplitReport(AppendReport(nil, false, r)); up || !ok {
		t.Error("a failed scrape is not seen as one")
	}
	for _, other := range []string{
		"", "\n", lines[:len(lines)-1], lines + "a 1\n", strings.Replace(lines, "up 1", "up 2", 1), strings.Replace(lines, "1.5", "NaN", 1),
		strings.Replace(lines, "up 1", `up{a="b"} 1`, 1), strings.Replace(lines, "1.5", "-1", 1), strings.Replace(lines, " 3", " 1e300", 1),
		lines[5:],
	} {
		if rest, _, _, ok := SplitReport([]byte(other)); ok || string(rest) != other {
			t.Errorf("%q is taken for a report, with %q before it", other, rest)
		}
	}
}

func FuzzFormat1(f *testing.F) {
	for _, msg := range oldMessages(f) {
		f.Add(msg)
	}
	f.Add([]byte(`{"job":"j","time":1,"Scrape":"` + zipped("a 1\n") + `"}`))
	f.Add([]byte(`{"job":"j","time":1,"Scrape":"` + zipped("up 0\nscrape_duration_seconds 1\nscrape_samples_scraped 0\nscrape_samples_post_metric_relabeling 0\nscrape_series_added 0\n") + `"}`))
	f.Fuzz(func(t *testing.T, msg []byte) {
		m, err := ParseFormat1(msg, DefaultLimits())
		if err != nil {
			return
		}
		again, err := AppendFormat1(nil, m)
		if err != nil {
			t.Fatal(err)
		}
		back, err := ParseFormat1(again, DefaultLimits())
		if err != nil || back.Job != m.Job || back.Instance != m.Instance || back.Publisher != m.Publisher || back.Time != m.Time || !bytes.Equal(back.Body, m.Body) {
			t.Fatalf("%.200q comes back as %.200q, %v", m.Body, back.Body, err)
		}
		if rest, up, r, ok := SplitReport(m.Body); ok {
			if _, up2, r2, ok2 := SplitReport(AppendReport(bytes.Clone(rest), up, r)); !ok2 || up2 != up || r2.Scraped != r.Scraped {
				t.Fatalf("the report of %q does not come back", m.Body)
			}
		}
		if !json.Valid(again) {
			t.Fatalf("not JSON: %s", again)
		}
	})
}
