package receiver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/stream"
)

// shelf is a registry that counts what it is asked.
type shelf struct {
	messages map[frame.SchemaID][]byte
	asked    int
	silent   bool
}

func (s *shelf) Schema(_ context.Context, _ string, id frame.SchemaID) ([]byte, error) {
	s.asked++
	if s.silent {
		return nil, errors.New("no answer")
	}
	if m, ok := s.messages[id]; ok {
		return m, nil
	}
	return nil, fmt.Errorf("%w: %s", stream.ErrNotFound, id)
}

// growing gives schemas of which each has one series more than the one before.
func growing(t *testing.T, n int) (all []*frame.Schema) {
	t.Helper()
	var series []frame.Series
	for i := range n {
		series = append(series[:i:i], frame.Series{Labels: labels.FromStrings("__name__", "a", "i", fmt.Sprint(i)), Family: -1})
		s, err := frame.NewSchema(nil, series, frame.DefaultLimits())
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	return all
}

func newCache(t *testing.T) *Schemas {
	t.Helper()
	s, err := NewSchemas(t.TempDir(), frame.DefaultLimits(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestParentsAreFetched from whichever registry has them, once.
func TestParentsAreFetched(t *testing.T) {
	all := growing(t, 6)
	here, there := &shelf{messages: map[frame.SchemaID][]byte{}}, &shelf{messages: map[frame.SchemaID][]byte{}}
	there.messages[all[0].ID] = all[0].Marshal()
	for i, s := range all[1:] {
		on := here
		if i%2 == 0 {
			on = there
		}
		on.messages[s.ID] = s.MarshalDelta(all[i])
	}
	cache := newCache(t)
	if s, err := cache.Fetch(t.Context(), "site", all[5].ID, []Registry{here, there}); err != nil || s.Len() != 6 {
		t.Fatalf("%v, %v", s, err)
	}
	asked := here.asked + there.asked
	for _, s := range all {
		if got, err := cache.Fetch(t.Context(), "site", s.ID, []Registry{here, there}); err != nil || got.ID != s.ID {
			t.Fatalf("%v, %v", got, err)
		}
	}
	if more := here.asked + there.asked - asked; more != 0 {
		t.Errorf("parents were asked for %d times again", more)
	}
	delete(there.messages, all[2].ID)
	delete(here.messages, all[2].ID)
	if _, err := newCache(t).Fetch(t.Context(), "site", all[5].ID, []Registry{here, there}); !errors.Is(err, stream.ErrNotFound) {
		t.Errorf("a parent that is nowhere: %v", err)
	}
	there.silent = true
	if _, err := newCache(t).Fetch(t.Context(), "site", all[5].ID, []Registry{here, there}); err == nil || errors.Is(err, stream.ErrNotFound) {
		t.Errorf("a parent that may be where nobody answers: %v", err)
	}
}

// TestParentsWithoutEnd: schemas that go back to each other, or too far, end in an error after a bounded number of questions.
func TestParentsWithoutEnd(t *testing.T) {
	all := growing(t, 60)
	registries := []Registry{&shelf{}, &shelf{}, &shelf{}}
	for name, back := range map[string]func(i int) int{
		"a circle": func(i int) int { return (i + 1) % 3 },
		"itself":   func(i int) int { return i },
		"too far":  func(i int) int { return max(0, i-1) },
	} {
		for _, r := range registries {
			s := r.(*shelf)
			s.messages, s.asked = map[frame.SchemaID][]byte{}, 0
			for i := range all {
				s.messages[all[i].ID] = all[i].MarshalDelta(all[back(i)])
			}
		}
		_, err := newCache(t).Fetch(t.Context(), "site", all[50].ID, registries)
		var limit *frame.LimitError
		if !errors.As(err, &limit) {
			t.Errorf("%s: %v", name, err)
		}
		asked := 0
		for _, r := range registries {
			asked += r.(*shelf).asked
		}
		if most := len(registries) * (frame.DefaultLimits().SchemaDepth + 1); asked > most {
			t.Errorf("%s: %d questions, want at most %d", name, asked, most)
		}
	}
}
