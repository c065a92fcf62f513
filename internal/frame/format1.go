package frame

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
)

// Format 1 is what version 1.0 published, one scrape of one target in each message: one JSON object with these keys in
// this order and nothing after it.
//
//	job        text
//	instance   text
//	time       seconds since the Unix epoch, when the scrape was over
//	publisher  text
//	Scrape     base64 (standard alphabet, padded) of gzip of the exposition as the target gave it
//
// It has no place in a lane and no content type: its order is its time, its body is text. A reader takes the keys in any
// case of letters and ignores others.
//
// A poller of this version puts five lines behind the body, in this order and without labels, types or timestamps: up,
// scrape_duration_seconds, scrape_samples_scraped, scrape_samples_post_metric_relabeling, scrape_series_added. A failed
// scrape is these lines alone, with up 0 (AppendReport, SplitReport).

const (
	// format1Body bounds the uncompressed body of a message.
	format1Body = 64 << 20
	// format1Name bounds each of job, instance and publisher.
	format1Name = 1024
)

// ErrNoTime: a message of format 1 does not say when it was scraped. It is an ErrMalformed too.
var ErrNoTime = fmt.Errorf("%w: no time", ErrMalformed)

// Format1 is one message of format 1.
type Format1 struct {
	Job, Instance string
	// Time is in seconds since the Unix epoch.
	Time      int64
	Publisher string
	// Body is the exposition, not compressed.
	Body []byte
}

// format1 has the keys in their order; encoding/json writes and reads what version 1.0 did.
type format1 struct {
	Job       string `json:"job"`
	Instance  string `json:"instance"`
	Time      *int64 `json:"time"`
	Publisher string `json:"publisher"`
	Scrape    []byte `json:"Scrape"`
}

// IsFormat1 tells whether a message is of format 1 rather than 2, by its first byte.
func IsFormat1(msg []byte) bool {
	start := bytes.TrimLeft(msg, " \t\r\n")
	return len(start) > 0 && start[0] == '{'
}

// AppendFormat1 appends the message to dst.
func AppendFormat1(dst []byte, m *Format1) ([]byte, error) {
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if _, err := z.Write(m.Body); err != nil {
		return dst, fmt.Errorf("compress a message of format 1: %w", err)
	}
	if err := z.Close(); err != nil {
		return dst, fmt.Errorf("compress a message of format 1: %w", err)
	}
	b, err := json.Marshal(&format1{m.Job, m.Instance, &m.Time, m.Publisher, zipped.Bytes()})
	if err != nil {
		return dst, fmt.Errorf("write a message of format 1: %w", err)
	}
	return append(dst, b...), nil
}

// ParseFormat1 reads a message. The error is an ErrMalformed or a *LimitError.
func ParseFormat1(msg []byte, lim Limits) (*Format1, error) {
	if err := within("bytes of a message", uint64(len(msg)), lim.MessageBytes); err != nil {
		return nil, err
	}
	var in format1
	if err := json.Unmarshal(msg, &in); err != nil {
		return nil, fmt.Errorf("%w message of format 1: %w", ErrMalformed, err)
	}
	for what, name := range map[string]string{"bytes of job": in.Job, "bytes of instance": in.Instance, "bytes of publisher": in.Publisher} {
		if err := within(what, uint64(len(name)), format1Name); err != nil {
			return nil, err
		}
	}
	if in.Time == nil || *in.Time <= 0 || *in.Time > 1<<40 {
		return nil, ErrNoTime
	}
	body, err := unzip(in.Scrape)
	if err != nil {
		return nil, err
	}
	return &Format1{Job: in.Job, Instance: in.Instance, Time: *in.Time, Publisher: in.Publisher, Body: body}, nil
}

func unzip(zipped []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(zipped))
	if err != nil {
		return nil, fmt.Errorf("%w Scrape of a message of format 1: %w", ErrMalformed, err)
	}
	var body bytes.Buffer
	switch _, err := io.Copy(&body, io.LimitReader(z, format1Body+1)); {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fmt.Errorf("%w Scrape of a message of format 1", ErrTruncated)
	case err != nil:
		return nil, fmt.Errorf("%w Scrape of a message of format 1: %w", ErrMalformed, err)
	}
	return body.Bytes(), within("bytes of a body of format 1", uint64(body.Len()), format1Body)
}
