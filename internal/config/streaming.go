package config

import "slices"

// finishStreaming checks that no two blocks need one client of NATS Streaming at the same time: the server lets in one.
func (c *Config) finishStreaming(d *decoder) {
	for i := range c.ReceiverStreams {
		path, s := c.receiverPath(i), &c.ReceiverStreams[i].Stream
		for j := range i {
			if s.sameClient(&c.ReceiverStreams[j].Stream) {
				d.invalid(path, "the client id %s is that of %s on the same cluster already: give each its own client_id",
					quote(s.ClientID), c.receiverPath(j))
			}
		}
		if c.PollerStream != nil && s.sameClient(c.PollerStream) {
			d.warn(lineOf(c.lines, path), "%s: the client id %s is that of poller_stream on the same cluster: only one of the two roles can run at a time",
				path, quote(s.ClientID))
		}
	}
}

// sameClient tells whether two blocks are one client of one server of NATS Streaming.
func (s *Stream) sameClient(other *Stream) bool {
	return s.ClusterID != "" && s.ClusterID == other.ClusterID && s.ClientID == other.ClientID && slices.Equal(s.URLs, other.URLs)
}
