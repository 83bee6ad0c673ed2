// Package settings reads, writes and edits settings files: flat YAML whose keys are the
// names of a program's flags, with _ for -. One declaration of a flag thus gives
// the flag, the environment variable, the key and their documentation.
//
// It is apart from cliapp so that a program, or a command that must start
// quickly, does without the YAML parser.
//
// What could go wrong: a key that is misspelled and so silently without effect
// (each must be a flag's name); a value that YAML understands in another way than
// the reader (values are taken as they are written: "on" is on, 0700 is 0700); a
// file that says a thing twice (refused); aliases that expand without end (refused); an edit
// that changes another line than it was for (it is read again, and refused).
package settings
