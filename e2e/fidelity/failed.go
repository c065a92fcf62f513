//go:build fidelity

package fidelity

import (
	"net/http"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/prompb"
)

// exposedKey is the key of a series without the labels of its target.
func exposedKey(l []prompb.Label) string {
	var own []prompb.Label
	for _, x := range l {
		switch x.Name {
		case "who", "site", "job", "instance":
		default:
			own = append(own, x)
		}
	}
	return key(own)
}

// sampleLimit is that of the target of this name, 4 KB the limit of that of the other.
const sampleLimit, limitedSamples, limitedSize = 50, "fails-samples", "fails-large"

// beforeFailure are the series, as the target shows them, that Prometheus takes of an answer before it finds that the scrape
// failed. It is none if the answer does not come to be read.
func beforeFailure(target string, a answer) map[string]bool {
	seen := map[string]bool{}
	if a.act != send || a.status != 0 && a.status != http.StatusOK || target == limitedSize && len(a.body) > 4096 {
		return seen
	}
	p, _ := textparse.New(a.body, a.contentType, nil, textparse.ParserOptions{IgnoreNativeHistograms: !strings.HasPrefix(target, "native-")})
	if p == nil {
		return seen
	}
	for n := 0; target != limitedSamples || n < sampleLimit; {
		entry, err := p.Next()
		if err != nil {
			break
		}
		switch entry {
		case textparse.EntrySeries, textparse.EntryHistogram:
		default:
			continue
		}
		n++
		seen[shownKey(p)] = true
	}
	return seen
}

// shownKey is the key of a parser's series.
func shownKey(p textparse.Parser) string {
	var ls labels.Labels
	p.Labels(&ls)
	var pairs []prompb.Label
	ls.Range(func(l labels.Label) { pairs = append(pairs, prompb.Label{Name: l.Name, Value: l.Value}) })
	return key(pairs)
}
