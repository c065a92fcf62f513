// Package arch holds one test: who may import whom, and which libraries stay in which room. A new room, or a new door
// between two, is a line here that somebody reviews.
package arch
