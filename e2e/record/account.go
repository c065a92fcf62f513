package record

import (
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// maxProblems bounds the list of problems; the rest is only counted.
const maxProblems = 20

// Epoch names one epoch of one lane.
type Epoch struct {
	Publisher, Lane string
	Epoch           uint64
}

// Account is what a log says when every promise is checked.
type Account struct {
	// Frames and Samples count first deliveries; samples without those that Prometheus adds to each scrape.
	Frames, Samples int
	// Repeats are frames delivered again by a later run, and Unmarked, by run, those of them that were not marked as
	// repeated.
	Repeats  int
	Unmarked map[int]int
	// Targets has the first deliveries of each target in the order of the log, by publisher and labels (TargetKey).
	Targets map[string][]Frame
	// Gaps are the sequences of an epoch that were never delivered, between the first and the last that were.
	Gaps map[Epoch][]uint64
	// Delivered are all frames that were.
	Delivered map[FrameID]bool
	// Bundles are the sequences of which a frame was delivered.
	Bundles map[Epoch]map[uint64]bool
	// Problems are broken promises, in words; Broken is how many there are.
	Problems []string
	Broken   int
}

// TargetKey names a target across epochs.
func TargetKey(publisher, labels string) string { return publisher + " " + labels }

// FrameID names a frame for ever.
type FrameID struct {
	Epoch
	Seq, Target, Position uint64
}

// first is what is remembered of a frame's first delivery.
type first struct {
	run  int
	hash uint64
}

// runOrder is what one run was given last, for the order within it.
type runOrder struct {
	seqs  map[Epoch]uint64
	times map[string]int64
}

// Account checks a log: a frame is delivered once, or again by a later run and then identical; within a
// run bundles come in the order of their sequences and the frames of a target in that of their times; among first
// deliveries of a target none is older than one before it.
func (l *Log) Account() *Account { return l.account(true) }

// AccountWithoutTimes is Account for scrapes by clocks that jump: their times tell nothing of their order.
func (l *Log) AccountWithoutTimes() *Account { return l.account(false) }

func (l *Log) account(times bool) *Account {
	a := &Account{Unmarked: map[int]int{}, Targets: map[string][]Frame{}, Gaps: map[Epoch][]uint64{}, Delivered: map[FrameID]bool{}, Bundles: map[Epoch]map[uint64]bool{}}
	seen := map[FrameID]first{}
	newest := map[string]int64{}
	var order runOrder
	run := 0
	for i := range l.Frames {
		f := &l.Frames[i]
		if f.InRun != run {
			run, order = f.InRun, runOrder{seqs: map[Epoch]uint64{}, times: map[string]int64{}}
		}
		epoch := Epoch{f.Publisher, f.Lane, f.Entry.Epoch}
		target := TargetKey(f.Publisher, f.Target.String())
		a.checkOrder(f, epoch, target, order, times)
		key := FrameID{epoch, f.Seq, f.TargetID, f.Position}
		hash := f.hash()
		if before, again := seen[key]; again {
			a.checkRepeat(f, before, hash)
			continue
		}
		seen[key] = first{f.InRun, hash}
		a.Delivered[key] = true
		a.Frames++
		a.Samples += len(f.Values) - len(f.Absent)
		if a.Bundles[epoch] == nil {
			a.Bundles[epoch] = map[uint64]bool{}
		}
		a.Bundles[epoch][f.Seq] = true
		if f.Kind == KindEpochEnd {
			continue
		}
		if last, ok := newest[target]; ok && f.Time <= last && times {
			a.problem("run %d: %s: time %d delivered after %d", f.InRun, target, f.Time, last)
		}
		newest[target] = max(newest[target], f.Time)
		a.Targets[target] = append(a.Targets[target], *f)
	}
	a.findGaps()
	return a
}

func (a *Account) checkOrder(f *Frame, epoch Epoch, target string, order runOrder, times bool) {
	if last := order.seqs[epoch]; f.Seq < last {
		a.problem("run %d: epoch %x: sequence %d delivered after %d", f.InRun, epoch.Epoch, f.Seq, last)
	}
	order.seqs[epoch] = f.Seq
	if f.Kind == KindEpochEnd || !times {
		return
	}
	if last, ok := order.times[target]; ok && f.Time <= last {
		a.problem("run %d: %s: time %d delivered after %d within one run", f.InRun, target, f.Time, last)
	}
	order.times[target] = f.Time
}

func (a *Account) checkRepeat(f *Frame, before first, hash uint64) {
	a.Repeats++
	where := fmt.Sprintf("epoch %x sequence %d target %s", f.Entry.Epoch, f.Seq, f.Target)
	if before.run == f.InRun {
		a.problem("run %d: %s delivered twice by one run", f.InRun, where)
	}
	if before.hash != hash {
		a.problem("run %d: %s delivered again with other content", f.InRun, where)
	}
	if !f.Repeated {
		a.Unmarked[f.InRun]++
	}
}

func (a *Account) findGaps() {
	for epoch, seqs := range a.Bundles {
		sorted := slices.Sorted(maps.Keys(seqs))
		for i := 1; i < len(sorted); i++ {
			for missing := sorted[i-1] + 1; missing < sorted[i]; missing++ {
				a.Gaps[epoch] = append(a.Gaps[epoch], missing)
			}
		}
	}
}

func (a *Account) problem(format string, args ...any) {
	a.Broken++
	if len(a.Problems) < maxProblems {
		a.Problems = append(a.Problems, fmt.Sprintf(format, args...))
	}
}

// Missing are all sequences of Gaps.
func (a *Account) Missing() int {
	n := 0
	for _, seqs := range a.Gaps {
		n += len(seqs)
	}
	return n
}

// hash is over all that a delivery must repeat exactly.
func (f *Frame) hash() uint64 {
	h := xxhash.New()
	fmt.Fprintln(h, f.Kind, f.Time, f.Target.String(), f.Reason, f.Duration, f.Scraped, f.PostRelabel, f.Added, f.Absent, f.Times)
	for i, v := range f.Values {
		fmt.Fprintln(h, f.Series[i].String(), math.Float64bits(v))
	}
	return h.Sum64()
}
