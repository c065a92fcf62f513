//go:build fidelity

package fidelity

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"

	dto "github.com/prometheus/client_model/go"
)

// text is an answer in one of the text formats, written by hand.
func text(f format, number int, lines ...string) answer {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# HELP scrape_number Which scrape this is.\n# TYPE scrape_number gauge\nscrape_number %d\n", number)
	for _, l := range lines {
		b.WriteString(l)
		b.WriteByte('\n')
	}
	if f == openMetrics {
		b.WriteString("# EOF\n")
	}
	return answer{contentType: f.contentType(), body: b.Bytes()}
}

// timed has series with times of their own, ten minutes ago at first. They go away and come back later than the marker of that, and
// go away again; one has the same time for ever, one goes back in time now and then.
func (w *world) timed(name string, f format) func(int) answer {
	return func(number int) answer {
		at := func(ms int64) string {
			if f == openMetrics {
				return fmt.Sprintf("%d.%03d", ms/1000, ms%1000)
			}
			return fmt.Sprint(ms)
		}
		n := int64(number)
		past := w.begin.UnixMilli() - 600_000 + n*1000 + 7
		ahead := w.begin.UnixMilli() + 400_000 + n*1000 + 13
		lines := []string{"# TYPE timed gauge"}
		show := func(series string, ms int64) {
			if number <= w.last {
				lines = append(lines, fmt.Sprintf("timed{n=%q} %d.5 %s", series, number, at(ms)))
			}
		}
		show("always", past)
		switch {
		case number < 30:
			show("away", past)
			show("alternating", past)
		case number >= 40 && number < quietFrom:
			show("away", ahead)
		case number > 90:
			show("away", ahead)
		}
		if number < quietFrom && number%2 == 0 {
			show("half", past)
		}
		if number <= w.last {
			lines = append(lines, fmt.Sprintf("timed{n=\"same\"} 5 %s", at(w.begin.UnixMilli()-300_000)))
			lines = append(lines, fmt.Sprintf("timed{n=\"same time\"} %d %s", number, at(w.begin.UnixMilli()-300_000)))
		}
		back := past
		if number%10 == 5 {
			back -= 30_000
		}
		show("back", back)
		// Sometimes with a time and sometimes without.
		if number == 20 || number == 21 {
			show("changing", past)
		} else {
			lines = append(lines, fmt.Sprintf("timed{n=\"changing\"} %d", number))
		}
		lines = append(lines, fmt.Sprintf("timed{n=\"none\"} %d", number))
		return text(f, number, lines...)
	}
}

// timedFamilies are the same in protobuf.
func (w *world) timedFamilies(name string) func(int) answer {
	return func(number int) answer {
		m := family("timed", "", dto.MetricType_GAUGE, gauge(float64(number), "n", "none"))
		ms := w.begin.UnixMilli() - 600_000 + int64(number)*1000
		h := family("timed_native", "", dto.MetricType_HISTOGRAM)
		for i := range 3 {
			if number <= w.last && (i != 1 || w.phase(number) < 30) {
				g := gauge(w.value(1, name, i, number), "n", fmt.Sprint(i))
				g.TimestampMs = &ms
				x := &dto.Metric{Label: pairs("n", fmt.Sprint(i)), Histogram: w.integer(name, i, number), TimestampMs: &ms}
				m.Metric, h.Metric = append(m.Metric, g), append(h.Metric, x)
			}
		}
		return protobuf.encode([]*dto.MetricFamily{scrapeNumber(number), m, h})
	}
}

// clashing has labels that its target has too.
func clashing(number int) answer {
	return text(text004, number,
		fmt.Sprintf(`clash{job="own",instance="own"} %d`, number),
		fmt.Sprintf(`clash{job="own",exported_job="other",instance=""} %d`, number+1),
		fmt.Sprintf(`clash{exported_job="a",exported_exported_job="b",job="c"} %d`, number+2),
		fmt.Sprintf(`clash{site="own"} %d`, number+3),
		fmt.Sprintf(`clash{job="",x="empty"} %d`, number+4),
		fmt.Sprintf(`clash{x="none",__hidden="y"} %d`, number+5),
		fmt.Sprintf(`up{job="federated"} %d`, number%2),
		fmt.Sprintf(`scrape_duration_of{exported_instance="i"} %d`, number),
	)
}

// repeated has series twice, with equal and with other values.
func (w *world) repeated(f format) func(int) answer {
	return func(number int) answer {
		lines := []string{
			"# TYPE twice gauge",
			fmt.Sprintf(`twice{n="equal"} %d`, number), fmt.Sprintf(`twice{n="equal"} %d`, number),
			fmt.Sprintf(`twice{n="other"} %d`, number), fmt.Sprintf(`twice{n="other"} %d`, number+1),
			fmt.Sprintf(`twice{a="1",n="order"} %d`, number), fmt.Sprintf(`twice{n="order",a="1"} %d`, number+2),
			fmt.Sprintf(`twice{n="empty",b=""} %d`, number), fmt.Sprintf(`twice{n="empty"} %d`, number+3),
		}
		if number%7 > 3 && number < quietFrom {
			lines = append(lines, fmt.Sprintf(`twice{n="sometimes"} %d`, number), fmt.Sprintf(`twice{n="sometimes"} %d`, -number))
		}
		if number <= w.last {
			ms := w.begin.UnixMilli() - 600_000 + int64(number)*1000
			for i, d := range []int64{100, 200, 50} {
				lines = append(lines, fmt.Sprintf(`twice{n="timed"} %d %d`, number+i, ms+d))
			}
			lines = append(lines, fmt.Sprintf(`twice{n="part"} %d %d`, number, ms), fmt.Sprintf(`twice{n="part"} %d`, number+1))
		}
		return text(f, number, lines...)
	}
}

// batches shows the samples of the last scrapes at each, with times of their own, as exporters that sample faster than they are
// asked do: of some series all of them again, of others only what is new, one that is not in order. Some have exemplars.
func (w *world) batches(f format, again int, series ...string) func(int) answer {
	return func(number int) answer {
		at := func(n, part int) string {
			ms := w.begin.UnixMilli() - 600_000 + int64(n)*1000 + int64(part)*300
			if f == openMetrics {
				return fmt.Sprintf("%d.%03d", ms/1000, ms%1000)
			}
			return fmt.Sprint(ms)
		}
		lines := []string{"# TYPE batch counter"}
		if f != openMetrics {
			lines = []string{"# TYPE batch_total counter"}
		}
		add := func(series string, n, part int, exemplar bool) {
			text := at(n, part)
			line := fmt.Sprintf("batch_total{n=%q} %d.%d %s", series, n, part, text)
			if exemplar && f == openMetrics {
				line += fmt.Sprintf(" # {id=\"%d-%d\"} 1 %s", n, part, text)
			}
			lines = append(lines, line)
		}
		if number > w.last {
			return text(f, number)
		}
		for _, series := range series {
			from := number
			if series == "all" || series == "exemplars" {
				from = max(1, number-again)
			}
			if series == "flapping" && w.phase(number)%3 == 0 {
				continue
			}
			for n := from; n <= number; n++ {
				for part := range 3 {
					add(series, n, part, series == "exemplars")
				}
			}
		}
		add("disorder", number, 1, false)
		add("disorder", number, 0, false)
		add("disorder", number, 2, false)
		return text(f, number, lines...)
	}
}

// openMetricsTypes has what only that format has: info, state sets, units, gauge histograms, unknown types.
func (w *world) openMetricsTypes(number int) answer {
	n := w.phase(number)
	lines := []string{
		"# TYPE build info", "# HELP build What was built.", fmt.Sprintf(`build_info{version="1.%d"} 1`, n/20),
		"# TYPE mode stateset", "# HELP mode What it does.", fmt.Sprintf(`mode{mode="a"} %d`, n%2), fmt.Sprintf(`mode{mode="b"} %d`, 1-n%2),
		"# TYPE water_litres gauge", "# UNIT water_litres litres", "# HELP water_litres Water.", fmt.Sprintf("water_litres %d.25", number),
		"# TYPE queue gaugehistogram", "# HELP queue How long it is.",
	}
	for i, le := range []string{"1.0", "10.0", "+Inf"} {
		line := fmt.Sprintf(`queue_bucket{le=%q} %d`, le, number%7+i)
		if number <= w.last && i == 1 {
			line += fmt.Sprintf(` # {id="%d"} 5`, number)
		}
		lines = append(lines, line)
	}
	lines = append(lines, fmt.Sprintf("queue_gcount %d", number%7+2), fmt.Sprintf("queue_gsum %d", number),
		"# TYPE what unknown", "# HELP what Nobody knows.", fmt.Sprintf("what %d", -number),
		"# TYPE span_seconds summary", "# UNIT span_seconds seconds", fmt.Sprintf(`span_seconds{quantile="0.5"} %d`, number), `span_seconds{quantile="1.0"} NaN`,
		fmt.Sprintf("span_seconds_count %d", number), fmt.Sprintf("span_seconds_sum %d", 2*number), "span_seconds_created 1.5")
	return text(openMetrics, number, lines...)
}

// rewritten is for metric_relabel_configs.
func (w *world) rewritten(name string) func(int) answer {
	return func(number int) answer {
		var lines []string
		for i := range 60 {
			if w.hash(name, i, w.phase(number))%5 > 0 {
				lines = append(lines, fmt.Sprintf(`raw_%d{id="%d",secret="%d",__meta="x",zone="z%d"} %v`, i%4, i, number%3, i%2, w.value(i, name, i, number)))
			}
		}
		return text(text004, number, lines...)
	}
}

// failing fails in a way at some scrapes and is well at the others, with other series after each time.
func (w *world) failing(name string, how func(number int, well answer) answer) func(int) answer {
	return func(number int) answer {
		n := w.phase(number)
		var lines []string
		for i := range 20 {
			if i < 15 || (n/10+i)%3 == 0 {
				lines = append(lines, fmt.Sprintf(`well{n="%d"} %v`, i, w.value(i, name, i, number)))
			}
		}
		well := text(text004, number, lines...)
		if n%10 == 4 || n%10 == 5 || n == 17 || n == 1 && w.hash(name)%2 == 0 {
			return how(number, well)
		}
		return well
	}
}

// failures are the ways.
func (w *world) failures() map[string]func(number int, well answer) answer {
	return map[string]func(int, answer) answer{
		"status": func(_ int, a answer) answer { a.status = http.StatusInternalServerError; return a },
		"reset":  func(int, answer) answer { return answer{act: reset} },
		"cut":    func(_ int, a answer) answer { a.act = cut; return a },
		"badline": func(_ int, a answer) answer {
			a.body = bytes.Replace(a.body, []byte(`{n="7"} `), []byte(`{n="7} `), 1)
			return a
		},
		"badvalue": func(_ int, a answer) answer {
			a.body = bytes.Replace(a.body, []byte(`{n="7"} `), []byte(`{n="7"} x`), 1)
			return a
		},
		"noeof":    func(_ int, a answer) answer { a.contentType = openMetrics.contentType(); return a },
		"badproto": func(_ int, a answer) answer { a.contentType = protobuf.contentType(); return a },
		"html":     func(_ int, a answer) answer { a.contentType = "text/html"; return a },
		"untold":   func(_ int, a answer) answer { a.contentType = ""; return a },
		"empty":    func(_ int, a answer) answer { a.body = nil; return a },
		"nothing":  func(_ int, a answer) answer { a.body = []byte("# nothing here\n\n"); return a },
		"samples":  func(_ int, a answer) answer { a.body = append(a.body, strings.Repeat("\n", 3)...); return more(a, 60) },
		"large":    func(_ int, a answer) answer { return more(a, 400) },
		"labels": func(_ int, a answer) answer {
			a.body = append(a.body, `well{a="1",b="2",c="3",d="4"} 5`+"\n"...)
			return a
		},
		"longname": func(_ int, a answer) answer {
			a.body = append(a.body, `well{`+strings.Repeat("n", 90)+`="1"} 5`+"\n"...)
			return a
		},
		"longvalue": func(_ int, a answer) answer {
			a.body = append(a.body, `well{a="`+strings.Repeat("v", 300)+`"} 5`+"\n"...)
			return a
		},
		"noname": func(_ int, a answer) answer { a.body = append(a.body, `{a="b"} 5`+"\n"...); return a },
	}
}

// more adds series.
func more(a answer, series int) answer {
	for i := range series {
		a.body = fmt.Appendf(a.body, "more{n=\"%d\"} 1\n", i)
	}
	return a
}

// changing answers in another format at each scrape.
func (w *world) changing(name string) func(int) answer {
	var all [formats]func(int) answer
	for f := range formats {
		all[f] = w.mixed(name, f)
	}
	return func(number int) answer {
		f := format(w.hash("format", w.phase(number)/2) % uint64(formats))
		a := all[f](number)
		return a
	}
}
