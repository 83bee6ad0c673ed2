// Package kubeconfig edits kubectl's configuration and leaves alone all that is
// not Sallyport's: foreign entries, comments, order, spelling and line ends stay
// byte for byte.
//
// It does so by deciding on the parsed tree, and writing by cutting lines of the
// text: client-go would write the whole file anew without its comments, and a YAML
// encoder that keeps comments would still indent, quote, fold and space it anew,
// which shows as a change of every line where the file is under version control.
// The result is parsed again, and only if it says exactly what was
// decided is it written; a file whose layout the cutting doesn't know (JSON, say)
// is encoded anew as a whole. The file is replaced in one step, under the lock
// that kubectl's own "config" commands take.
//
// A static kubeconfig is a file of its own, with the certificate in it, for machines
// that have no tsh (see Static). It is never merged into another file, nor replaced
// unless it is such a file for the same user.
//
// Ours is an entry whose user runs "tsh kube credentials"; nothing else is ever
// overwritten or removed, whatever its name.
//
// What an attacker might try: names from a server that mean something else in
// YAML. Names are checked by the caller, values are encoded, and the check after
// cutting would catch the rest. kubectl runs commands that a kubeconfig names, so
// the file is never readable or writable by more people than before.
package kubeconfig
