// Package page runs a page of the documentation as a person would who types it: all its
// commands in one shell on one terminal, in their order, each of which must succeed and
// print what the page shows.
//
// A block of bash holds lines that begin with "$ " (a command, which goes on over lines
// that end in a backslash, within quotes and in here-documents), comments ("# …"), and
// below a command what it prints, if the page shows it. "..." stands for lines left out.
// White space counts as one space. A block of yaml is a file when the paragraph above says
// "Save the file below as `NAME`". Blocks of text are read by people alone.
//
// What only a test needs stands in HTML comments that begin with "test", one instruction a line:
//
//	$ COMMAND                       runs, too
//	do NAME                         calls Options.Do[NAME]
//	where TEXT is REGEXP            from here on, TEXT in what the page shows stands for what matches
//	skip REASON                     the next block is not run
//	at `TEXT`: fails                the command of the next block that is TEXT, else holds it, fails
//	at `TEXT`: until 60s            it is run again until it prints what the page shows
//	at `TEXT`: takes 3m             it has so long (default 1m)
//	at `TEXT`: type "PROMPT" WORDS  when it prints PROMPT, WORDS are typed, once; $NAME is Options.Vars[NAME]
//	at `TEXT`: during NAME          Options.Do[NAME] is called while it runs
//
// Nothing is guessed: a block, a line or an instruction that is not understood is an error.
package page
