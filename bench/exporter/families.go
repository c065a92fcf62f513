package exporter

import (
	"fmt"
	"math/rand"
	"strconv"
)

// The words that the labels are made of.
var (
	namespaces = []string{"kube-system", "monitoring", "payments-prod", "checkout-prod", "ingress-nginx", "data-pipeline"}
	apps       = []string{"coredns", "cart-service", "order-api", "payment-gateway", "fluent-bit", "node-local-dns", "recommendation", "session-store"}
	handlers   = []string{"/api/v1/orders", "/api/v1/orders/{id}", "/api/v1/cart", "/healthz", "/metrics", "/login", "/api/v1/query", "/static"}
	methods    = []string{"GET", "POST", "PUT", "DELETE"}
	codes      = []string{"200", "201", "204", "301", "400", "404", "500", "503"}
	modes      = []string{"idle", "iowait", "irq", "nice", "softirq", "steal", "system", "user"}
	bounds     = []string{"0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "+Inf"}
	suffixes   = []string{"", "_alpha", "_beta", "_gamma", "_delta", "_epsilon", "_zeta", "_eta", "_theta", "_iota", "_kappa"}
)

// The number of series in one family at most, and in one histogram.
const (
	perFamily      = 25
	perGaugeFamily = 20
	perHistogram   = 14
)

// pod is what labels of containers are made of.
type pod struct{ namespace, name, container, uid string }

// builder makes the lines of one target.
type builder struct {
	rnd  *rand.Rand
	node string
	pods []pod
	page *page
}

// newPage makes a target of exactly m series: 35 % counters that move, 35 % constants, about 20 % series of whole
// histograms of which half move, the rest gauges that move. The same index gives the same target.
func newPage(index, m int) *page {
	rnd := rand.New(rand.NewSource(int64(index)*7919 + 17))
	b := &builder{rnd: rnd, page: &page{rnd: rnd}}
	b.node = fmt.Sprintf("ip-10-%d-%d-%d.eu-west-1.compute.internal", index/250, index%250, 10+rnd.Intn(200))
	for range 24 {
		app := apps[rnd.Intn(len(apps))]
		b.pods = append(b.pods, pod{
			namespace: namespaces[rnd.Intn(len(namespaces))],
			name:      app + "-" + hexString(rnd, 9) + "-" + hexString(rnd, 5),
			container: app,
			uid: hexString(rnd, 8) + "-" + hexString(rnd, 4) + "-" + hexString(rnd, 4) + "-" + hexString(rnd, 4) + "-" +
				hexString(rnd, 12),
		})
	}
	counters, constants, histograms := m*35/100, m*35/100, m*20/100/perHistogram
	gauges := m - counters - constants - histograms*perHistogram
	for f := 0; counters > 0; f++ {
		counters -= b.counters(f, min(perFamily, counters))
	}
	for f := 0; constants > 0; f++ {
		constants -= b.constants(f, min(perFamily, constants))
	}
	for f := 0; histograms > 0; f++ {
		histograms -= b.histograms(f, min(4, histograms))
	}
	for f := 0; gauges > 0; f++ {
		gauges -= b.gauges(f, min(perGaugeFamily, gauges))
	}
	return b.page
}

func (b *builder) header(name, typ, help string) {
	b.page.lines = append(b.page.lines, line{header: []byte("# HELP " + name + " " + help + "\n# TYPE " + name + " " + typ + "\n")})
}

func (b *builder) add(s *series) {
	s.render()
	b.page.lines = append(b.page.lines, line{series: s})
	b.page.series++
	if s.churns {
		b.page.churning = append(b.page.churning, s)
	}
}

// counters adds one family of k counters and returns k.
func (b *builder) counters(f, k int) int {
	switch f % 4 {
	case 0:
		name := "container_cpu_usage_seconds" + suffix(f) + "_total"
		b.header(name, "counter", "Cumulative cpu time consumed by the container in seconds.")
		for i := range k {
			p := b.pods[i%len(b.pods)]
			b.add(&series{name: name, kind: secondsCounter, value: float64(b.rnd.Intn(9000000)) / 100, step: 0.01 + float64(b.rnd.Intn(400))/100,
				churns: true, labels: []label{{"namespace", p.namespace}, {"pod", p.name}, {"container", p.container},
					{"cpu", fmt.Sprintf("cpu%02d", i/len(b.pods))}, {"node", b.node}}})
		}
	case 1:
		name := "container_network_receive_bytes" + suffix(f) + "_total"
		b.header(name, "counter", "Cumulative count of bytes received.")
		for i := range k {
			p := b.pods[i%len(b.pods)]
			b.add(&series{name: name, kind: integerCounter, value: float64(b.rnd.Int63n(1 << 38)), step: float64(100 + b.rnd.Intn(1000000)),
				churns: true, labels: []label{{"namespace", p.namespace}, {"pod", p.name},
					{"interface", fmt.Sprintf("eth%d", i/len(b.pods))}, {"node", b.node}}})
		}
	case 2:
		name := "node_cpu_seconds" + suffix(f) + "_total"
		b.header(name, "counter", "Seconds the CPUs spent in each mode.")
		for i := range k {
			b.add(&series{name: name, kind: secondsCounter, value: float64(b.rnd.Intn(900000000)) / 100, step: 0.01 + float64(b.rnd.Intn(500))/100,
				labels: []label{{"cpu", strconv.Itoa(i / 8)}, {"mode", modes[i%8]}, {"node", b.node}}})
		}
	case 3:
		name := "http_server_requests" + suffix(f) + "_total"
		b.header(name, "counter", "Total number of HTTP requests handled by the server, by handler, method and code.")
		for i := range k {
			b.add(&series{name: name, kind: integerCounter, value: float64(b.rnd.Intn(4000000)), step: float64(1 + b.rnd.Intn(60)),
				labels: []label{{"code", codes[i%8]}, {"handler", handlers[(i/8)%8]}, {"method", methods[i%4]}}})
		}
	}
	return k
}

// constants adds one family of k series that never move and returns k.
func (b *builder) constants(f, k int) int {
	switch f % 3 {
	case 0:
		name := "kube_pod_info" + suffix(f)
		b.header(name, "gauge", "Information about pod.")
		for i := range k {
			p := b.pods[i%len(b.pods)]
			b.add(&series{name: name, value: 1, churns: true, labels: []label{{"namespace", p.namespace}, {"pod", p.name}, {"uid", p.uid},
				{"node", b.node}, {"created_by_kind", "ReplicaSet"}, {"host_network", strconv.FormatBool(i >= len(b.pods))}}})
		}
	case 1:
		name := "container_spec_memory_limit_bytes" + suffix(f)
		b.header(name, "gauge", "Memory limit for the container.")
		for i := range k {
			p := b.pods[i%len(b.pods)]
			b.add(&series{name: name, value: float64((1 + b.rnd.Intn(16)) * 134217728), churns: true,
				labels: []label{{"namespace", p.namespace}, {"pod", p.name}, {"container", p.container}, {"id", strconv.Itoa(i)}}})
		}
	case 2:
		name := "node_disk_io_errors" + suffix(f) + "_total"
		b.header(name, "counter", "The total number of I/O errors on the device.")
		for i := range k {
			b.add(&series{name: name, value: float64(b.rnd.Intn(2) * b.rnd.Intn(40)),
				labels: []label{{"device", fmt.Sprintf("nvme%dn1p%d", i/4, i%4)}, {"op", []string{"read", "write"}[i%2]}, {"node", b.node}}})
		}
	}
	return k
}

// histograms adds one family of k histograms and returns k.
func (b *builder) histograms(f, k int) int {
	name := "http_request_duration_seconds" + suffix(f)
	b.header(name, "histogram", "HTTP request latencies in seconds.")
	for h := range k {
		own := []label{{"handler", handlers[(f*4+h)%8]}, {"method", methods[h%4]}, {"code", codes[f%8]}}
		step := 0.0
		if h%2 == 0 {
			step = float64(1 + b.rnd.Intn(5))
		}
		count := float64(b.rnd.Intn(1000))
		for _, le := range bounds {
			count += float64(b.rnd.Intn(5000))
			b.add(&series{name: name + "_bucket", kind: histogramBucket, value: count, step: step,
				labels: append(append([]label{}, own...), label{"le", le})})
		}
		b.add(&series{name: name + "_sum", kind: histogramSum, value: count * 0.0731, step: step * 0.0731, labels: own})
		b.add(&series{name: name + "_count", kind: histogramBucket, value: count, step: step, labels: own})
	}
	return k
}

// gauges adds one family of k gauges and returns k.
func (b *builder) gauges(f, k int) int {
	name := "container_memory_pressure_ratio" + suffix(f)
	b.header(name, "gauge", "Fraction of wall time in which tasks stalled on memory.")
	for i := range k {
		p := b.pods[i%len(b.pods)]
		b.add(&series{name: name, kind: gauge, value: b.rnd.Float64() * 100, step: 1,
			labels: []label{{"namespace", p.namespace}, {"pod", p.name}, {"container", p.container}}})
	}
	return k
}

func suffix(f int) string {
	if f < len(suffixes) {
		return suffixes[f]
	}
	return "_g" + strconv.Itoa(f)
}
