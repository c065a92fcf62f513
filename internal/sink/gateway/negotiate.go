package gateway

import (
	"mime"
	"strconv"
	"strings"
)

// format is how an answer is written.
type format struct {
	openMetrics bool
	// quoted: names that are not plain may be written in quotes; else they are escaped with underscores.
	quoted bool
	// version is the one to name in the content type.
	version string
}

func (f format) contentType() string {
	kind, escaping := "text/plain", "underscores"
	if f.openMetrics {
		kind = "application/openmetrics-text"
	}
	if f.quoted {
		escaping = "allow-utf-8"
	}
	return kind + "; version=" + f.version + "; charset=utf-8; escaping=" + escaping
}

// negotiate chooses the format that an Accept header likes best, the text format 0.0.4 if it likes none.
func negotiate(accept string) format {
	best, bestQ := format{version: "0.0.4"}, 0.0
	for part := range strings.SplitSeq(accept, ",") {
		kind, params, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		q := 1.0
		if s, ok := params["q"]; ok {
			if q, err = strconv.ParseFloat(s, 64); err != nil {
				continue
			}
		}
		f := format{quoted: params["escaping"] == "allow-utf-8", version: params["version"]}
		switch kind {
		case "application/openmetrics-text":
			if f.openMetrics = true; f.version == "" {
				f.version = "1.0.0"
			}
			if f.version != "1.0.0" && f.version != "0.0.1" {
				continue
			}
		case "text/plain", "text/*", "*/*":
			if f.version == "" {
				f.version = "0.0.4"
			}
			if f.version != "0.0.4" && (f.version != "1.0.0" || kind != "text/plain") {
				continue
			}
		default:
			continue
		}
		if q > bestQ {
			best, bestQ = f, q
		}
	}
	return best
}
