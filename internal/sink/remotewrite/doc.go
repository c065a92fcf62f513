// Package remotewrite is the sink for servers that speak Prometheus' remote write: every sample of every scrape, with its
// time, its value bit for bit and the five series that a scrape reports of itself.
//
// What Prometheus adds when it scrapes by itself is added here: a stale marker for each series that the next scrape of
// its target no longer has, for all of them when a scrape fails, and for those of the scrape too when a target ends. What
// is needed for that is remembered for each target: the schema and a bit for each series of its last scrape.
//
// Targets are spread over 64 fixed shards. Each shard has at most one request on its way, so that the samples of a
// series arrive in order; a request takes along what waits in all idle shards. One goroutine, Run, owns everything: it
// notes what frames mean, writes bodies and takes answers. Compressing and sending happen beside it.
//
// Label text is kept once for each schema: a series is a list of numbers of strings, and the strings of its target, which
// differ between targets, are put in by their place. Writing a body looks up no map and allocates nothing per sample.
//
// Nothing is given up because the server is away, slow or in trouble. What it refuses for good is looked for: first the
// frame, then with a bounded number of tries the samples within it. That is counted by reason and publisher, and the
// rest goes on.
package remotewrite
