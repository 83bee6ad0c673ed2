package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// terminal is what a program writes to, and what a person sees of it.
func terminal(t *testing.T) (program, person *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = person.Close() })
	number := 0
	err = unix.IoctlSetPointerInt(int(person.Fd()), unix.TIOCSPTLCK, 0)
	if err == nil {
		number, err = unix.IoctlGetInt(int(person.Fd()), unix.TIOCGPTN)
	}
	if err == nil {
		program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = program.Close() })
	return program, person
}

// TestTerminalsGetColoursOfOursAlone: failures are red, and of what the log holds
// nothing drives the terminal, in no format.
func TestTerminalsGetColoursOfOursAlone(t *testing.T) {
	srv, w := startAudit(t)
	t.Setenv("NO_COLOR", "")
	t.Setenv("TERM", "xterm")
	srv.AddAudit(1,
		w.line(`{"event":"user.login","code":"T1000I","time":"2026-11-23T12:00:00Z","user":"ali\u001b[2Jce"}`),
		w.line(`{"event":"user.login","code":"T1000W","time":"2026-11-23T12:00:00Z","user":"mallory`+"\u202e"+`","error":"no\u009b31m"}`))
	for _, tc := range []struct {
		args string
		code int
		want []string
	}{
		{"audit ls", 0, []string{`T1000I user.login           ali\u001b[2Jce`, "\x1b[1;31m2026", `mallory\u202e`, "\x1b[0m\r\n"}},
		{"audit ls --format=json", 0, []string{`"user":"ali\u001b[2Jce"`, `"user":"mallory\u202e"`}},
		{"audit ls --format=yaml", 0, []string{`mallory\u202e`}},
		{"audit export", 2, []string{"this is for programs: name a file with --out, or pipe it on"}},
	} {
		t.Run(tc.args, func(t *testing.T) {
			program, person := terminal(t)
			var code int
			done := make(chan struct{})
			go func() {
				defer close(done)
				a := app()
				a.Stdin, a.Stdout, a.Stderr = strings.NewReader(""), program, program
				code = a.Main(t.Context(), append([]string{"tctl", "--socket=" + srv.Socket}, strings.Fields(tc.args)...))
				_ = program.Close()
			}()
			seen, _ := io.ReadAll(person) // ends with an error of the device when the program has gone
			<-done
			for _, want := range tc.want {
				if !strings.Contains(string(seen), want) {
					t.Errorf("no %q in %q", want, seen)
				}
			}
			rest := strings.NewReplacer("\x1b[1;31m", "", "\x1b[0m", "").Replace(string(seen))
			if strings.ContainsAny(rest, "\x1b\u009b\u202e") || code != tc.code {
				t.Errorf("exit status %d, %q", code, rest)
			}
		})
	}
}

// TestLongLinesAreCutToTheTerminal: and nowhere else, as programs read the whole.
func TestLongLinesAreCutToTheTerminal(t *testing.T) {
	srv, w := startAudit(t)
	t.Setenv("TZ", "UTC")
	srv.AddAudit(1, w.line(`{"event":"reset_password_token.create","code":"T6000I","time":"2026-11-23T12:00:00Z","user":"alice","name":"`+strings.Repeat("bob", 20)+`"}`))
	program, person := terminal(t)
	if err := unix.IoctlSetWinsize(int(program.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80}); err != nil {
		t.Fatal(err)
	}
	run := func(out io.Writer) {
		a := app()
		a.Stdin, a.Stdout, a.Stderr = strings.NewReader(""), out, io.Discard
		if code := a.Main(t.Context(), []string{"tctl", "--socket=" + srv.Socket, "audit", "ls"}); code != 0 {
			t.Errorf("exit status %d", code)
		}
	}
	run(program) // the line fits the terminal's buffer
	_ = program.Close()
	seen, _ := io.ReadAll(person) // ends with an error of the device
	got := strings.TrimSpace(string(seen))
	if want := "2026-11-23T12:00:00Z T6000I reset_password_toke… alice        Made a link to se…"; len([]rune(got)) > 80 || got != want {
		t.Errorf("%d characters: %s", len([]rune(got)), got)
	}
	var pipe strings.Builder
	run(&pipe)
	if !strings.Contains(pipe.String(), " reset_password_token.create alice ") || !strings.Contains(pipe.String(), strings.Repeat("bob", 20)) {
		t.Error(pipe.String())
	}
}
