package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	promconfig "github.com/prometheus/common/config"

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
	client, err := promconfig.NewClientFromConfig(c.Block.HTTP, "remote_write")
	if err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	name := remoteWriteSink(h.cfg, i)
	s, err := remotewrite.New(remotewrite.Options{
		Name: name, URL: string(c.URL), HTTPClient: client, Headers: c.Block.Headers,
		UserAgent: "prometheus-streams/" + buildVersion(), Timeout: time.Duration(c.Block.RemoteTimeout),
		Protocol: c.Protocol, PublisherLabel: string(c.PublisherLabel), WriteRelabel: c.Block.WriteRelabel,
		OutOfOrderWindow: time.Duration(c.OutOfOrderWindow),
		NoMetadata:       c.Block.Metadata.Send != nil && !*c.Block.Metadata.Send,
		SendExemplars:    c.Block.SendExemplars, SendNativeHistograms: c.Block.SendNativeHistograms,
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
