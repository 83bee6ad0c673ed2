// Package release makes what people install: an image for two architectures
// in two variants, archives of the binaries, packaged charts, a bill of
// materials (CycloneDX) for each set of binaries, and checksums over all.
//
// It needs Go, git and, for the image, apt-get; no Docker engine and no
// registry. What an image carries beside our binaries (certificates, time
// zones, busybox) are Debian's packages, fetched by the machine's apt from the
// machine's sources and checked by the machine's keys, but with lists, cache and
// state of its own below the cache directory: nothing is installed, and the
// machine's apt is as it was before.
//
// Everything is reproducible: the same sources, Go and packages give the same
// bytes, so that whoever doubts a release builds it again and compares
// SHA256SUMS. Hence no clock (the commit's time, or SOURCE_DATE_EPOCH, stands
// for it), files sorted and owned by numbers, and no map's order.
//
// An attacker who wants into the image has to pass apt's signatures, or Go's
// checksum database. What this package itself must get right is what the image
// says of who runs and who may write: a user that is not root, no setuid file,
// nothing writable but /tmp, the state directory and a home. A test reads the
// finished image and asserts it.
package release
