// Package lifecycle makes the events by which programs of a Choria network know that a process started or stopped: version 1.0
// published the first of them on the connection of its stream, and so do we where no Choria server is embedded that does it.
//
// The events are CloudEvents of version 1.0, the form that Choria has had since 2019; "choria tool event" shows
// them. Nobody is asked to answer, and nothing depends on them.
package lifecycle

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"time"
)

// Prefix is that of the subjects: an event's type and the component follow.
const Prefix = "choria.lifecycle.event."

// Process is who the events tell of.
type Process struct {
	Identity, Component, Version string
}

// Startup is the event of a process that begins.
func (p Process) Startup() (subject string, data []byte) { return p.event("startup", p.Version) }

// Shutdown is the event of a process that ends in good order.
func (p Process) Shutdown() (subject string, data []byte) { return p.event("shutdown", "") }

// body is the event itself; cloud is what carries it.
type body struct {
	Protocol  string `json:"protocol"`
	ID        string `json:"id"`
	Identity  string `json:"identity"`
	Component string `json:"component"`
	Timestamp int64  `json:"timestamp"`
	Version   string `json:"version,omitempty"`
}

type cloud struct {
	SpecVersion     string    `json:"specversion"`
	Type            string    `json:"type"`
	Source          string    `json:"source"`
	Subject         string    `json:"subject"`
	ID              string    `json:"id"`
	Time            time.Time `json:"time"`
	DataContentType string    `json:"datacontenttype"`
	Data            body      `json:"data"`
}

func (p Process) event(kind, version string) (string, []byte) {
	now := time.Now().UTC()
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails
	b := body{
		Protocol: "io.choria.lifecycle.v1." + kind, ID: hex.EncodeToString(id), Identity: p.Identity, Component: p.Component,
		Timestamp: now.Unix(), Version: version,
	}
	data, err := json.Marshal(cloud{
		SpecVersion: "1.0", Type: b.Protocol, Source: "io.choria.lifecycle", Subject: p.Identity, ID: b.ID, Time: now,
		DataContentType: "application/json", Data: b,
	})
	if err != nil { // strings and numbers alone
		panic(err)
	}
	return Prefix + kind + "." + p.Component, data
}
