// Package scrape asks one target for its exposition and makes a frame of the answer. A target that does not answer, or
// not well, gives a frame too: it is down.
package scrape
