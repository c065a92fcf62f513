package exposition

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/prometheus/common/model"
	"google.golang.org/protobuf/encoding/protowire"
)

// protocolType gives what an Accept header says for a protocol of scrape_protocols; empty if there is no such one.
func protocolType(protocol string) string {
	switch protocol {
	case "PrometheusProto":
		return protobufType + ";proto=io.prometheus.client.MetricFamily;encoding=delimited"
	case "PrometheusText0.0.4":
		return "text/plain;version=0.0.4"
	case "PrometheusText1.0.0":
		return "text/plain;version=1.0.0"
	case "OpenMetricsText0.0.1":
		return "application/openmetrics-text;version=0.0.1"
	case "OpenMetricsText1.0.0":
		return "application/openmetrics-text;version=1.0.0"
	}
	return ""
}

// firstWeight is the weight in tenths that Prometheus gives the first protocol: one more than it knows protocols.
const firstWeight = 7

// DefaultProtocols gives the names of the protocols that Prometheus asks for unless it is told otherwise, the most
// wanted first. With native histograms the protobuf format, which alone has them, is asked for before all others.
func DefaultProtocols(nativeHistograms bool) []string {
	all := []string{"PrometheusProto", "OpenMetricsText1.0.0", "OpenMetricsText0.0.1", "PrometheusText1.0.0", "PrometheusText0.0.4"}
	if nativeHistograms {
		return all
	}
	return all[1:]
}

// Accept gives the Accept header with which Prometheus asks for these protocols, named as in scrape_protocols, the most
// wanted first. escaping is a metric_name_escaping_scheme; empty is allow-utf-8. Names that it does not know it leaves
// out.
func Accept(protocols []string, escaping string) string {
	if escaping == "" {
		escaping = model.AllowUTF8
	}
	var b strings.Builder
	weight := firstWeight
	for _, p := range protocols {
		typ := protocolType(p)
		if typ == "" {
			continue
		}
		b.WriteString(typ)
		if strings.HasSuffix(p, "1.0.0") {
			b.WriteString(";" + model.EscapingKey + "=" + escaping)
		}
		fmt.Fprintf(&b, ";q=0.%d,", weight)
		weight--
	}
	fmt.Fprintf(&b, "*/*;q=0.%d", weight)
	return b.String()
}

// fallback is the media type that an exposition of unknown type is read as.
func (r *Rules) fallback() string {
	typ, _, _ := strings.Cut(protocolType(r.FallbackProtocol), ";")
	if typ == "" && !r.Strict {
		return "text/plain"
	}
	return typ
}

// maxEmpty is how many families without a metric may follow one another in the protobuf format.
const maxEmpty = 10_000

// checkMessages looks at the families of the protobuf format before the parser does: it goes one call deeper for each
// that has no metric. What else is wrong the parser will say when it comes to it.
func checkMessages(body []byte) error {
	empty := 0
	for i := 0; i < len(body); {
		size, n := binary.Uvarint(body[i:])
		if n <= 0 || size > uint64(len(body)-i-n) {
			return nil
		}
		i += n
		empty++
		if hasMetric(body[i : i+int(size)]) {
			empty = 0
		}
		if empty > maxEmpty {
			return fmt.Errorf("protobuf: more than %d families without a metric follow one another", maxEmpty)
		}
		i += int(size)
	}
	return nil
}

// hasMetric tells whether a message of a family has a metric in it, or is malformed, which the parser will say.
func hasMetric(message []byte) bool {
	for len(message) > 0 {
		field, typ, n := protowire.ConsumeTag(message)
		if n < 0 || field == familyMetric {
			return true
		}
		message = message[n:]
		if n = protowire.ConsumeFieldValue(field, typ, message); n < 0 {
			return true
		}
		message = message[n:]
	}
	return false
}
