package frame

import (
	"bytes"
	"strconv"
	"time"
)

// reportLines are the names of the lines that AppendReport writes, in their order.
func reportLines() [5]string {
	return [...]string{UpName, DurationName, ScrapedName, PostRelabelName, AddedName}
}

// AppendReport puts what the scrape itself measured behind a body of format 1, as text.
func AppendReport(body []byte, up bool, r Report) []byte {
	if n := len(body); n > 0 && body[n-1] != '\n' {
		body = append(body, '\n')
	}
	values := [...]float64{0, r.Duration.Seconds(), float64(r.Scraped), float64(r.PostRelabel), float64(r.Added)}
	if up {
		values[0] = 1
	}
	for i, name := range reportLines() {
		body = append(body, name...)
		body = append(body, ' ')
		body = strconv.AppendFloat(body, values[i], 'g', -1, 64)
		body = append(body, '\n')
	}
	return body
}

// SplitReport takes off a body what AppendReport put behind it. ok is false, and the body whole, if there is none: the
// message is of version 1.0.
func SplitReport(body []byte) (rest []byte, up bool, r Report, ok bool) {
	var values [5]float64
	names := reportLines()
	rest = body
	for i := len(names) - 1; i >= 0; i-- {
		line, found := bytes.CutSuffix(rest, []byte("\n"))
		if !found {
			return body, false, Report{}, false
		}
		start := bytes.LastIndexByte(line, '\n') + 1
		value, found := bytes.CutPrefix(line[start:], []byte(names[i]+" "))
		v, err := strconv.ParseFloat(string(value), 64)
		if !found || err != nil || !(v >= 0 && v < 1e12) {
			return body, false, Report{}, false
		}
		values[i], rest = v, rest[:start]
	}
	if values[0] != 0 && values[0] != 1 {
		return body, false, Report{}, false
	}
	duration := min(values[1], (30 * 24 * time.Hour).Seconds())
	return rest, values[0] == 1, Report{
		Duration: time.Duration(duration * float64(time.Second)),
		Scraped:  int(values[2]), PostRelabel: int(values[3]), Added: int(values[4]),
	}, true
}
