// Package inflate decompresses whole gzip bodies (RFC 1952, with DEFLATE, RFC 1951) from memory to memory. It takes what
// the gzip readers take, the standard library's and klauspost's, and refuses what one of them refuses, in a little more than
// half their time: with all of the input and the output at hand it reads eight bytes at a time, finds all that is to know of a
// symbol in one place, and copies matches where they are.
package inflate
