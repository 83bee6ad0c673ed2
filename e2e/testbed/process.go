package testbed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Command is a program to run and where its output goes.
type Command struct {
	Name  string   // in messages; the log file's name
	Args  []string // Args[0] is the program
	Env   []string // nil: the caller's
	Dir   string
	Stdin io.Reader
	Log   string // file that stdout and stderr are appended to
	NetNS string // name of the network namespace to run in; needs root

	ResolvConf string // file that is /etc/resolv.conf for the program alone; needs root
}

func (c Command) cmd() (*exec.Cmd, *os.File, error) {
	args := c.Args
	if c.NetNS != "" { // not `ip netns exec`: that remounts /sys, which hides the cgroups
		args = append([]string{"nsenter", "--net=/run/netns/" + c.NetNS}, args...)
	}
	if c.ResolvConf != "" { // each of these becomes the next, so that the PID is the program's
		args = append([]string{"unshare", "--mount", "--propagation=private", "sh", "-c", `mount --bind "$0" /etc/resolv.conf && exec "$@"`, c.ResolvConf}, args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env, cmd.Dir, cmd.Stdin = c.Env, c.Dir, c.Stdin
	if c.Log == "" {
		return cmd, nil, nil
	}
	if err := os.MkdirAll(filepath.Dir(c.Log), 0o700); err != nil {
		return nil, nil, err
	}
	log, err := os.OpenFile(c.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, nil, err
	}
	cmd.Stdout, cmd.Stderr = log, log
	return cmd, log, nil
}

// Process is a running child. Its owner calls Stop or Kill, which wait for the end.
type Process struct {
	Name string
	Log  string
	c    Command
	cmd  *exec.Cmd
	done chan struct{}
	err  error // of Wait; read after done
}

// StartProcess runs c until Stop, Kill or the end of this process.
func StartProcess(c Command) (*Process, error) {
	cmd, log, err := c.cmd()
	if err != nil {
		return nil, err
	}
	cmd.SysProcAttr = childAttr()
	p := &Process{Name: c.Name, Log: c.Log, c: c, cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// The kernel ties the child's life to the *thread* that made it (PR_SET_PDEATHSIG), so that
		// thread is kept for as long as the child lives.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if log != nil {
			log.Close() // the child has its own
		}
		started <- err
		if err != nil {
			return
		}
		p.err = cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Name, err)
	}
	return p, nil
}

// PID of the child; a number of no meaning once Exited is closed.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Exited is closed when the child has ended.
func (p *Process) Exited() <-chan struct{} { return p.done }

// Err says how the child ended; nil while it runs and after status 0.
func (p *Process) Err() error {
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}

// Running reports whether the child lives.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Signal sends sig to the child alone (SIGSTOP pauses it, SIGCONT goes on).
func (p *Process) Signal(sig os.Signal) error { return p.cmd.Process.Signal(sig) }

// Kill is a power cut: SIGKILL to the child and what it started, at once.
func (p *Process) Kill() {
	if p.Running() {
		// Its group is its own (childAttr), and while it is not reaped the number can't be anyone else's.
		_ = syscall.Kill(-p.PID(), syscall.SIGKILL)
	}
	<-p.done
}

// Stop sends SIGTERM, and SIGKILL if the child has not ended when ctx does.
// The error is the child's own, or says that it had to be killed.
func (p *Process) Stop(ctx context.Context) error {
	if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", p.Name, err)
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		p.Kill()
		return fmt.Errorf("%s ignored SIGTERM and was killed", p.Name)
	}
	if p.err != nil {
		return fmt.Errorf("%s: %w", p.Name, p.err)
	}
	return nil
}

// Tail returns the last lines of the child's log.
func (p *Process) Tail(lines int) string { return tail(p.Log, lines) }

func tail(file string, lines int) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	all := bytes.Split(bytes.TrimRight(b, "\n"), []byte("\n"))
	return string(bytes.Join(all[max(0, len(all)-lines):], []byte("\n")))
}

// Result is what a finished command said.
type Result struct {
	Stdout, Stderr string
	Code           int // -1: did not run, or ended by a signal
	Took           time.Duration
	Err            error // nil exactly when Code is 0
}

// Run runs c to its end, or kills it when ctx ends.
func Run(ctx context.Context, c Command) Result {
	cmd, _, err := Command{Name: c.Name, Args: c.Args, Env: c.Env, Dir: c.Dir, Stdin: c.Stdin, NetNS: c.NetNS, ResolvConf: c.ResolvConf}.cmd()
	if err != nil {
		return Result{Code: -1, Err: err}
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.SysProcAttr = childAttr()
	start := time.Now()
	runtime.LockOSThread() // as in StartProcess
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return Result{Code: -1, Err: err}
	}
	stop := context.AfterFunc(ctx, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	err = cmd.Wait()
	stop()
	r := Result{Stdout: stdout.String(), Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode(), Took: time.Since(start)}
	switch {
	case ctx.Err() != nil:
		r.Code = -1
		r.Err = fmt.Errorf("%s: %w after %.1f s", strings.Join(c.Args, " "), ctx.Err(), r.Took.Seconds())
	case err != nil:
		r.Err = fmt.Errorf("%s: %w: %s", strings.Join(c.Args, " "), err, strings.TrimSpace(r.Stderr))
	}
	return r
}
