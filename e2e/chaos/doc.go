// Package chaos kills, freezes and cuts off the parts of a running site, and then accounts for every sample. Its test has
// the build tag chaos: see "make chaos".
package chaos
