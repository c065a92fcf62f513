package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/config"
	"github.com/choria-io/prometheus-streams/internal/receiver"
	"github.com/choria-io/prometheus-streams/internal/sink"
	"github.com/choria-io/prometheus-streams/internal/sink/remotewrite"
)

// remoteWriteSink is the name of the sink of a remote_write block: with the block's name, else with its place. Durables
// and files have it in their names, so that everything but letters, digits, - and _ is written as _ and two hex digits.
func remoteWriteSink(c *config.Config, i int) string {
	name := c.RemoteWrite[i].Name
	if name == "" {
		name = strconv.Itoa(i)
	}
	var b strings.Builder
	b.WriteString("remote_write-")
	for _, x := range []byte(name) {
		if x == '-' || x == '_' || '0' <= x && x <= '9' || 'a' <= x && x <= 'z' || 'A' <= x && x <= 'Z' {
			b.WriteByte(x)
		} else {
			fmt.Fprintf(&b, "_%02x", x)
		}
	}
	return b.String()
}

// remoteWrite adds the sink of one remote_write block.
func (h *house) remoteWrite(common receiver.Config, blocks []inlet, i int) error {
	c := &h.cfg.RemoteWrite[i]
	at := fmt.Sprintf("remote_write[%d]", i)
	client, err := remoteWriteClient(&c.Block)
	if err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	queue := &c.Block.Queue
	name := remoteWriteSink(h.cfg, i)
	s, err := remotewrite.New(remotewrite.Options{
		Name: name, URL: string(c.URL), HTTPClient: client, Headers: c.Block.Headers,
		UserAgent: "prometheus-streams/" + buildVersion(), Timeout: time.Duration(c.Block.RemoteTimeout),
		Protocol: c.Protocol, PublisherLabel: string(c.PublisherLabel), WriteRelabel: c.Block.WriteRelabel,
		OutOfOrderWindow: time.Duration(c.OutOfOrderWindow),
		NoMetadata:       c.Block.Metadata.Send != nil && !*c.Block.Metadata.Send,
		SendExemplars:    c.Block.SendExemplars, SendNativeHistograms: c.Block.SendNativeHistograms,
		MaxRequests: queue.MaxShards, MaxSamples: queue.MaxSamplesPerSend, FlushAge: time.Duration(queue.BatchSendDeadline),
		MinBackoff: time.Duration(queue.MinBackoff), MaxBackoff: time.Duration(queue.MaxBackoff),
		LateDirectory: c.LateDirectory, LateMaxSize: int64(c.LateMaxSize),
		StateDirectory: common.StateDirectory, Schema: common.Schemas.Lookup,
		Owners: sink.NewOwners(h.cfg.Receiver.Limits.Targets, h.env.Logger),
		Logger: h.env.Logger, Registerer: h.env.Registry,
	})
	if err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	h.breaker.Manage(s)
	h.actor(s.Run)
	if c.PublisherMetrics > 0 {
		h.selfScrape(common, c, name, s)
	}
	common.Name, common.Sink = name, s
	for _, b := range blocks {
		source, err := b.durable(h, name)
		if err != nil {
			return err
		}
		common.Sources = append(common.Sources, source)
	}
	return h.pipeline(common)
}

// receiverJob is the job under which a receiver writes what it knows of publishers.
const receiverJob = "prometheus_streams_receiver"

// selfScrape has a sink told, again and again, what is known of publishers.
func (h *house) selfScrape(common receiver.Config, c *config.RemoteWrite, name string, s *remotewrite.Sink) {
	label := string(c.PublisherLabel)
	if label == "" {
		label = "publisher"
	}
	if h.selfScrapes == nil {
		h.selfScrapes = receiver.NewSelfScrapeSkipped(h.env.Registry)
	}
	self := &receiver.SelfScrape{
		Publishers: common.Publishers, Sink: s, Schemas: common.Schemas, Label: label, Interval: time.Duration(c.PublisherMetrics),
		Target:  labels.FromStrings(model.InstanceLabel, h.cfg.Identity, model.JobLabel, receiverJob),
		Skipped: h.selfScrapes.WithLabelValues(name), Logger: h.env.Logger.With("sink", name),
	}
	h.actor(self.Run)
}
