package frame

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
)

// pods are 1000 series of 100 pods, of which one at a time is replaced.
type pods struct {
	rng   *rand.Rand
	names []string
}

var podFamilies = []Family{
	{Name: "kube_pod_info", Type: model.MetricTypeGauge, Help: "Information about pod."},
	{Name: "kube_pod_status_phase", Type: model.MetricTypeGauge, Help: "The pods current phase."},
	{Name: "kube_pod_container_resource_requests", Type: model.MetricTypeGauge, Help: "The number of requested request resource by a container."},
}

func newPods() *pods {
	p := &pods{rng: rand.New(rand.NewPCG(1, 2))}
	for i := range 100 {
		p.names = append(p.names, p.name(i))
	}
	return p
}

func (p *pods) name(i int) string {
	return fmt.Sprintf("payments-api-%08x-%05x", i/10*77777, p.rng.IntN(1<<20))
}

// series is those of the pods, by family.
func (p *pods) series() (all []Series) {
	phases := []string{"Failed", "Pending", "Running", "Succeeded", "Unknown"}
	for _, n := range p.names {
		all = append(all, Series{Base: 1, Labels: labels.FromStrings("__name__", "kube_pod_info", "namespace", "payments", "node", "node-"+n[:15], "pod", n)})
	}
	for _, n := range p.names {
		for _, phase := range phases {
			all = append(all, Series{Family: 1, Labels: labels.FromStrings("__name__", "kube_pod_status_phase", "namespace", "payments", "phase", phase, "pod", n)})
		}
	}
	for _, n := range p.names {
		for i, r := range []string{"cpu", "ephemeral_storage", "memory", "pods"} {
			all = append(all, Series{Family: 2, Base: float64(i) * 1073741824, Labels: labels.FromStrings("__name__", "kube_pod_container_resource_requests",
				"container", "app", "namespace", "payments", "pod", n, "resource", r)})
		}
	}
	return all
}

// replace gives the next schema: one pod is another one.
func (p *pods) replace(t testing.TB) *Schema {
	i := p.rng.IntN(len(p.names))
	p.names[i] = p.name(i)
	return mustSchema(t, podFamilies, p.series())
}

// BenchmarkSchemaChange is what one change of one in a hundred of the series of a target costs the edge, when it comes
// again and again.
func BenchmarkSchemaChange(b *testing.B) {
	p := newPods()
	last := p.replace(b).Pack(nil)
	full := len(last.Stored().Message)
	bytes, n := 0, 0
	b.ReportAllocs()
	for b.Loop() {
		made := p.replace(b)
		last = made.PackAfter(last)
		bytes += len(last.Stored().Message)
		n++
	}
	b.ReportMetric(float64(bytes)/float64(n), "B/change")
	b.ReportMetric(float64(full), "B/full")
}
