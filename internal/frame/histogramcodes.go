package frame

// Three more codes of residuals, for native histograms: part of the format as those of rows are.
const (
	codeBucket         = iota // what a bucket changed by
	codeFirst                 // buckets without a base
	codeSmall                 // lengths of runs, spans
	histogramCodeCount        // of these
)

func histogramCodeLengths(code int) string {
	switch code {
	case codeBucket:
		return "2233455677777777799999988bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	case codeFirst:
		return "34333445566666666666688888777bbbbbbbbaaaabbbbbbbbbbbbbbbbbbbbbbbb"
	default:
		return "32233567588aaaa99bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	}
}

type histogramCodes [histogramCodeCount][residualSizes]uint32

func newHistogramCodes() *histogramCodes {
	c := new(histogramCodes)
	for k := range c {
		c[k] = residualCode(histogramCodeLengths(k))
	}
	return c
}

type histogramTables [histogramCodeCount][1 << maxCodeBits]uint16

func newHistogramTables() *histogramTables {
	t := new(histogramTables)
	for k, code := range newHistogramCodes() {
		t[k] = residualTable(&code)
	}
	return t
}
