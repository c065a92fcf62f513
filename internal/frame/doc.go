// Package frame is the wire format of prometheus-streams: what a scrape of a target is (Frame), how the names of its
// series are kept apart from their values (Schema), and how both become bytes and frames again (Encoder, Decoder,
// AppendBundle, ParseBundle). docs/frame-format.md describes the bytes for those who want to read them elsewhere.
//
// A schema is sent once, under the hash of its content, and frames name it. A keyframe holds the values of a scrape
// against the base values of its schema; the frames after it hold what changed since an earlier frame of the same
// target, which they name by its position. A reader therefore needs no policy, only the frames that are named; a
// checksum over the decoded values of each frame tells whether it had the right ones.
//
// Everything that reads bytes here takes them as hostile: limits are checked before memory is taken, and what cannot
// be read exactly is an error, never a guess.
package frame
