package page

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// Session is one bash on one terminal: what a command sets, the next one finds.
type Session struct {
	cmd      *exec.Cmd
	tty      *os.File
	commands *os.File // paths of files with commands, one a line
	dir      string   // of those files
	n        int
	read     sync.WaitGroup

	mu     sync.Mutex
	output []byte // of the command that runs
	grown  chan struct{}
	ended  bool
}

// loop is the whole of the session. Its marks, which no program prints, end the output of a
// command. A pipe fails with any of its parts, as each command must succeed.
const loop = `set -o pipefail; stty -echo -onlcr cols 200 rows 50; printf '\036ready\036'
while IFS= read -r -u 3 step; do . "$step"; printf '\036%d\036' "$?"; done`

var mark = regexp.MustCompile("\x1e(ready|[0-9]+)\x1e")

// NewSession starts a shell in dir. around is a command that runs the shell in some other
// place, to which its command line is appended; zero: none.
func NewSession(ctx context.Context, around testbed.Command, dir string, env []string) (*Session, error) {
	args := append(append([]string(nil), around.Args...), "bash", "--noprofile", "--norc", "-c", loop)
	commands, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer commands.Close()
	s := &Session{commands: w, grown: make(chan struct{})}
	if s.dir, err = os.MkdirTemp("", "page-"); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	s.cmd = exec.Command(args[0], args[1:]...)
	s.cmd.Dir, s.cmd.Env, s.cmd.ExtraFiles = dir, env, []*os.File{commands}
	// Who ignores SIGHUP, as under nohup, hands that down: nothing in the session would end with its terminal.
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	if s.tty, err = pty.StartWithAttrs(s.cmd, &pty.Winsize{Rows: 50, Cols: 200}, &syscall.SysProcAttr{Setsid: true, Setctty: true}); err != nil {
		return nil, errors.Join(err, w.Close(), os.RemoveAll(s.dir))
	}
	s.read.Go(s.collect)
	if _, status, err := s.wait(ctx, nil); err != nil || status != "ready" {
		return nil, errors.Join(fmt.Errorf("start bash: %w", err), s.Close())
	}
	return s, nil
}

// collect reads the terminal until the session has ended.
func (s *Session) collect() {
	buf := make([]byte, 4096)
	for {
		n, err := s.tty.Read(buf)
		s.mu.Lock()
		s.output = append(s.output, buf[:n]...)
		s.ended = err != nil
		close(s.grown)
		s.grown = make(chan struct{})
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// errEnded is a shell that has gone, as with ${NAME?} for a name that isn't set.
var errEnded = errors.New("the shell has ended")

// wait waits for a command's end, and types what it asks for.
func (s *Session) wait(ctx context.Context, types []Typing) (output, status string, err error) {
	from := 0 // what was printed before is no prompt for what is typed next
	for {
		s.mu.Lock()
		text, grown, ended := string(s.output), s.grown, s.ended
		if m := mark.FindStringSubmatchIndex(text); m != nil {
			s.output = nil
			s.mu.Unlock()
			if len(types) > 0 {
				err = fmt.Errorf("it has ended and never asked for %q", types[0].Prompt)
			}
			return text[:m[0]], text[m[2]:m[3]], err
		}
		s.mu.Unlock()
		if len(types) > 0 {
			if i := strings.Index(text[from:], types[0].Prompt); i >= 0 {
				from += i + len(types[0].Prompt)
				if _, err := io.WriteString(s.tty, types[0].Text+"\n"); err != nil {
					return text, "", err
				}
				types = types[1:]
				continue
			}
		}
		if ended {
			return text, "", errEnded
		}
		select {
		case <-ctx.Done():
			return text, "", ctx.Err()
		case <-grown:
		}
	}
}

// Run runs a command and returns all that the terminal showed of it, and its exit status.
// After an error, which is not that the command failed, the session is of no more use.
func (s *Session) Run(ctx context.Context, command string, types ...Typing) (output string, status int, err error) {
	s.n++
	file := filepath.Join(s.dir, strconv.Itoa(s.n)+".sh")
	if err := os.WriteFile(file, []byte(command+"\n"), 0o600); err != nil {
		return "", 0, err
	}
	if _, err := s.commands.WriteString(file + "\n"); err != nil {
		return "", 0, err
	}
	output, end, err := s.wait(ctx, types)
	if err != nil {
		return output, -1, err
	}
	status, err = strconv.Atoi(end)
	return output, status, err
}

// Output is what the command that runs has printed so far.
func (s *Session) Output() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.output)
}

// Close ends the session and what runs in it.
func (s *Session) Close() error {
	err := s.commands.Close()
	done := make(chan struct{})
	go func() {
		_ = s.cmd.Wait() // how it ends is nobody's concern
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(200 * time.Millisecond): // something runs
		_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL) // its session's first group; the others get SIGHUP with the terminal
		<-done
	}
	err = errors.Join(err, s.tty.Close())
	s.read.Wait()
	return errors.Join(err, os.RemoveAll(s.dir))
}
