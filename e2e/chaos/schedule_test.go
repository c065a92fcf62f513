//go:build chaos

package chaos

import (
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
)

// number reads a number from the environment.
func number(t *testing.T, name string, otherwise uint64) uint64 {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// seeded is the source of the order of faults and of how long each takes.
func seeded(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

// shuffled has each fault so many times.
func shuffled(random *rand.Rand, faults []fault, rounds int) []fault {
	var schedule []fault
	for range rounds {
		schedule = append(schedule, faults...)
	}
	random.Shuffle(len(schedule), func(i, j int) { schedule[i], schedule[j] = schedule[j], schedule[i] })
	return schedule
}

// rounds is how often each fault comes: CHAOS_ROUNDS, if it is set.
func rounds(t *testing.T, otherwise uint64) int { return int(number(t, "CHAOS_ROUNDS", otherwise)) }

// A seed gives the same faults in the same order again, another seed another order; each fault comes as often as it is to.
func TestSeedRepeats(t *testing.T) {
	names := func(seed uint64) (all []string) {
		for _, f := range shuffled(seeded(seed), relayFaults(nil, nil), 3) {
			all = append(all, f.name)
		}
		return all
	}
	first := names(7)
	if again := names(7); !slices.Equal(first, again) {
		t.Errorf("seed 7 gives\n%q and then\n%q", first, again)
	}
	if slices.Equal(first, names(8)) {
		t.Errorf("seeds 7 and 8 both give\n%q", first)
	}
	times := map[string]int{}
	for _, name := range first {
		times[name]++
	}
	for _, f := range relayFaults(nil, nil) {
		if times[f.name] != 3 {
			t.Errorf("%q comes %d times, want 3", f.name, times[f.name])
		}
	}
}
