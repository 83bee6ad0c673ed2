// Command testbed is what the shell scripts of e2e/testbed call: certificates
// and control planes, whose flags stand in the Go package alone.
//
//	testbed cp up [NAME] | down [NAME] | kubeconfig [NAME]
//	testbed kwok up [NAME] | down [NAME] | node [NAME] NODE
//	testbed controlplane DIR IP PORT SERVICES ["NODE=IP..."]   (NS: network namespace)
//
// Environment: CP_PORT (26443), CP_ONLY, GRACE, APISERVER_EXTRA.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
	"github.com/sallyport-dev/sallyport/e2e/testbed/pki"
)

var errUsage = errors.New("usage: testbed cp up|down|kubeconfig [NAME]; kwok up|down [NAME]; kwok node [NAME] NODE; controlplane DIR IP PORT SERVICES [NODE=IP...]")

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "testbed:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) < 2 {
		return errUsage
	}
	if args[0] == "controlplane" {
		return controlplane(ctx, args[1:])
	}
	name := "cp"
	rest := args[2:]
	if n := len(rest); n > 1 || n == 1 && args[1] != "node" {
		name, rest = rest[0], rest[1:]
	}
	switch args[0] + " " + args[1] {
	case "cp up":
		return up(ctx, name)
	case "cp down":
		return testbed.Down(name)
	case "cp kubeconfig":
		cp, err := testbed.Attach(name)
		if err != nil {
			return err
		}
		fmt.Println(cp.Kubeconfig)
		return nil
	case "kwok up", "kwok down", "kwok node":
		cp, err := testbed.Attach(name)
		if err != nil {
			return err
		}
		return kwok(ctx, cp, args[1], rest)
	}
	return errUsage
}

func kwok(ctx context.Context, cp *testbed.ControlPlane, command string, rest []string) error {
	switch {
	case command == "up":
		return cp.StartKwok(ctx)
	case command == "down":
		cp.StopKwok()
		return nil
	case len(rest) != 1:
		return errUsage
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return cp.AddNode(ctx, rest[0])
}

// options reads what the scripts have always taken from the environment.
func options() (testbed.Options, error) {
	o := testbed.Options{
		Minimal:       os.Getenv("CP_ONLY") != "",
		APIServerArgs: strings.Fields(os.Getenv("APISERVER_EXTRA")),
		NetNS:         os.Getenv("NS"),
	}
	if g := os.Getenv("GRACE"); g != "" {
		grace, err := time.ParseDuration(g)
		if err != nil {
			return o, fmt.Errorf("GRACE: %w", err)
		}
		o.Grace = grace
	}
	return o, nil
}

func up(ctx context.Context, name string) error {
	start := time.Now()
	o, err := options()
	if err != nil {
		return err
	}
	port := 26443
	if p := os.Getenv("CP_PORT"); p != "" {
		if port, err = strconv.Atoi(p); err != nil {
			return fmt.Errorf("CP_PORT: %w", err)
		}
	}
	cp, err := testbed.Up(ctx, name, port, o)
	if err != nil {
		return err
	}
	fmt.Printf("ready after %.1f s; export KUBECONFIG=%s\n", time.Since(start).Seconds(), cp.Kubeconfig)
	return nil
}

// controlplane is the one of a cluster with real nodes; cluster.sh ends it by its PID files.
func controlplane(ctx context.Context, args []string) error {
	if len(args) < 4 {
		return errUsage
	}
	o, err := options()
	if err != nil {
		return err
	}
	o.Dir, o.Host, o.Services, o.Detached = args[0], net.ParseIP(args[1]), args[3], true
	if o.Host == nil {
		return fmt.Errorf("%q is no IP address", args[1])
	}
	if o.Port, err = strconv.Atoi(args[2]); err != nil {
		return fmt.Errorf("port: %w", err)
	}
	if o.Nodes, err = pki.ParseNodes(strings.Join(args[4:], " ")); err != nil {
		return err
	}
	_, err = testbed.Start(ctx, o)
	return err
}
