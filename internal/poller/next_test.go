package poller

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestNextTick(t *testing.T) {
	start := time.Unix(1000, 0)
	at := func(s float64) time.Time { return start.Add(time.Duration(s * float64(time.Second))) }
	for _, tt := range []struct {
		name         string
		began, ended float64 // of the scrape due at 0; the interval is 10 s
		want         float64
		missed       time.Duration
	}{
		{"in time", 0, 1, 10, 0},
		{"just over", 0, 10.5, 10, 0}, // made up for at once
		{"over two ticks", 0, 25, 20, 1},
		{"begun late within its interval", 9, 9.5, 10, 0},
		{"begun after the next tick", 12, 12.1, 20, 1},
		{"begun at the next tick", 10, 10.1, 20, 1},
		{"after a long freeze", 3605, 3605.1, 3610, 360},
		{"after a freeze, and over", 35, 52, 50, 4},
	} {
		got, missed := next(start, at(tt.began), at(tt.ended), 10*time.Second)
		if !got.Equal(at(tt.want)) || missed != tt.missed {
			t.Errorf("%s: %v with %d missed, want %v with %d", tt.name, got.Sub(start), missed, tt.want, tt.missed)
		}
	}
}

func TestAlignedIsNotTheLastTime(t *testing.T) {
	at := time.UnixMilli(10_000)
	if got := aligned(10_002, at, 10_000, 10*time.Second); got != 10_002 {
		t.Errorf("%d, the scrape before it has 10000", got)
	}
}

func TestNoTwoScrapesAtOneTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &loop{last: time.Now().UnixMilli()}
		l.outlast()
		if got := time.Now().UnixMilli(); got == l.last {
			t.Errorf("the next scrape would begin at %d too", got)
		}
		before := time.Now()
		l.last-- // a clock that was set back makes no difference
		l.outlast()
		l.last += time.Hour.Milliseconds()
		l.outlast()
		if waited := time.Since(before); waited != 0 {
			t.Errorf("waited %v for another time than the last scrape's", waited)
		}
	})
}
