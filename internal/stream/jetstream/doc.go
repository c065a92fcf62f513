// Package jetstream carries messages over NATS JetStream.
//
// A Conn is one connection to NATS and one pair of streams: the frames and the registry of their schemas. From it come
//
//   - a Publisher, which stores messages in order and classifies what became of each,
//   - a Consumer, which receives from a durable: pull, one acknowledgement per message, never "all up to here" (after a
//     crash that would acknowledge messages nobody has handled) and never a negative one (it would reorder),
//   - a Follower, which receives from a point in time on without a durable,
//   - Read and Schema, which read stored messages again without consuming them,
//   - EnsureStreams and EnsureDurable, which create what is absent or say what is wrong with what is there.
//
// A durable hands the messages that its last user did not acknowledge to the next one late and out of order. So whenever
// a Consumer starts, reconnects or sees that deliveries went elsewhere, it makes the server deliver everything that is
// not acknowledged again, in order: by CONSUMER.RESET, else by making the durable anew at its floor, else by waiting.
//
// Requests to JetStream are sent by this package itself, so that it knows their subjects: the server tells of a denied
// subject apart from the request, and without the match every denial would look like a silent server.
package jetstream
