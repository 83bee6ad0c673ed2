// Package cliapp is the one place that knows how Sallyport's command lines are
// parsed. A program declares commands and flags as data; cliapp reads the
// arguments, fills in what they leave out (environment first, then the settings
// that Command.Settings gives), answers help, version and completion, runs the command,
// prints its error and gives the exit status. The generator of the documentation
// reads the same declarations (declare.go).
//
// It stands between the programs and urfave/cli for three reasons. Version 2 of
// that library stops reading flags at the first argument, so that
// "tctl users add alice --k8s-groups=system:masters" would silently make a user
// without groups: here flags work before and after arguments and commands, and
// what is left over and begins with a dash is an error. Its help wraps no lines, and it takes an
// empty variable for a value. And the move to version 3 stays a change of one file
// (urfave.go).
//
// What an attacker might try: text of a server that ends up on a terminal. Every
// string printed by way of this package has its control characters spelled out.
package cliapp
