// Package receiver takes messages from a stream, puts the bundles of each lane in order, decodes their frames, hands
// them to one sink and acknowledges a message once the sink is done with all of it.
//
// There is one Pipeline for each sink, with its own durable, so that a stuck sink holds up nobody else. A pipeline is
// one goroutine that never waits for the network: sources, schema fetches and sinks answer it by events.
//
// What a pipeline promises:
//
//   - A bundle is acknowledged after the sink's verdict on every frame, or after it was counted as dropped with a reason.
//   - The frames of a lane (publisher, lane, epoch) reach the sink in the order of their sequence. A hole holds that lane
//     alone, for at most Limits.HoleAge and Limits.HoleBundles, then it is counted as a gap.
//   - A bundle that was delivered and noted in the done table is never delivered again. A stop between a delivery and its
//     note lets it be delivered once more, marked Repeated and counted.
package receiver
