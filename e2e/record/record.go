// Package record is the log of the recording sink: every frame that it was given with every sample, in the order in
// which it was given them, over any number of runs that may each end in kill -9.
//
// A log is a file of records, each of them
//
//	length   uint32, little endian: of the payload
//	crc32c   uint32, little endian: of the payload
//	payload  one line of JSON (Entry) and, for frames, the values: 8 bytes each, little endian, as many as the
//	         layout has series; then, if Entry.Timestamps is set, as many timestamps of 8 bytes
//
// A record is written by one write(2) before the frame counts as delivered, so a killed process loses none that was
// acknowledged; what a kill cut short is taken away when the next run opens the log.
package record

import (
	"time"

	"github.com/prometheus/prometheus/model/labels"
)

// The kinds of entries.
const (
	// KindRun begins the entries of one process.
	KindRun = "run"
	// KindLayout names the series of the frames that refer to it, within its run.
	KindLayout = "layout"
	// The others are kinds of frames.
	KindScraped  = "scraped"
	KindDown     = "down"
	KindEnd      = "end"
	KindEpochEnd = "epoch end"
)

// maxPayload is the largest payload that is read: a million series and more.
const maxPayload = 256 << 20

// Entry is one record. Which fields are set depends on its kind.
type Entry struct {
	Kind string `json:"kind"`

	// Run counts the processes that wrote the log, from 1. Torn is how many bytes of a record cut short were taken
	// away when this run opened the log.
	Run  int   `json:"run,omitempty"`
	Torn int64 `json:"torn,omitempty"`

	// Layout numbers layouts within a run; Series are its full labels, the target's among them.
	Layout int             `json:"layout,omitempty"`
	Series []labels.Labels `json:"series,omitempty"`

	// A frame: who sent it, in which bundle, and what it says.
	Publisher string        `json:"publisher,omitempty"`
	Lane      string        `json:"lane,omitempty"`
	Epoch     uint64        `json:"epoch,omitempty"`
	Seq       uint64        `json:"seq,omitempty"`
	Position  uint64        `json:"position,omitempty"`
	TargetID  uint64        `json:"target_id,omitempty"`
	Target    labels.Labels `json:"target,omitzero"`
	Time      int64         `json:"time,omitempty"`
	Stored    time.Time     `json:"stored,omitzero"`
	Delivered time.Time     `json:"delivered,omitzero"`
	Repeated  bool          `json:"repeated,omitempty"`
	Reason    uint8         `json:"reason,omitempty"`
	// What the scrape measured.
	Duration    time.Duration `json:"duration,omitempty"`
	Scraped     int           `json:"scraped,omitempty"`
	PostRelabel int           `json:"post_relabel,omitempty"`
	Added       int           `json:"added,omitempty"`
	// Absent lists the series of the layout that the scrape did not have.
	Absent     []int `json:"absent,omitempty"`
	Timestamps bool  `json:"timestamps,omitempty"`

	// Values and Times are the binary part; they are nil where there is none.
	Values []float64 `json:"-"`
	Times  []int64   `json:"-"`
}
