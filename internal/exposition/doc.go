// Package exposition reads and writes what targets expose: the text format, OpenMetrics and protobuf on one side,
// schemas and columns of frames on the other.
//
// A Layout remembers the lines of its target's last exposition. The next one is compared with them run by run, from
// the end of one value to the start of the next, and only the numbers are read; lines that differ are looked up one
// by one, and whatever is unusual goes through Prometheus' own parser, which is also the judge of what is right: both
// ways give the same samples or the same refusal. Native histograms, which only protobuf has, always go through it;
// exemplars and start timestamps of OpenMetrics need not.
package exposition
