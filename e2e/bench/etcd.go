package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// etcd is a cluster of three members with default settings, mutual TLS between
// them and their data on the same disk as the replicas'.
type etcd struct {
	members []*member
}

type member struct {
	ports   *testbed.Ports
	args    []string
	log     string
	process *testbed.Process
	client  *clientv3.Client
}

func (m *member) url() string { return "http://" + m.ports.Addr(0) }

func startEtcd(ctx context.Context, dir string) (_ *etcd, err error) {
	e := &etcd{}
	defer func() {
		if err != nil {
			e.stop()
		}
	}()
	var initial []string
	for i := range 3 {
		ports, err := testbed.ReservePorts()
		if err != nil {
			return nil, err
		}
		e.members = append(e.members, &member{ports: ports, log: filepath.Join(dir, fmt.Sprintf("etcd%d.log", i))})
		initial = append(initial, fmt.Sprintf("m%d=https://%s", i, ports.Addr(1)))
	}
	for i, m := range e.members {
		peer := "https://" + m.ports.Addr(1)
		m.args = []string{
			testbed.Bin("etcd"), fmt.Sprintf("--name=m%d", i), "--data-dir=" + filepath.Join(dir, fmt.Sprintf("etcd%d", i)), "--log-level=error",
			"--listen-client-urls=" + m.url(), "--advertise-client-urls=" + m.url(),
			"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--peer-auto-tls",
			"--initial-cluster=" + strings.Join(initial, ","),
		}
		if err := m.start(); err != nil {
			return nil, err
		}
	}
	limit, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, m := range e.members {
		// One client per member and no balancing: who is asked is the benchmark's choice.
		m.client, err = clientv3.New(clientv3.Config{Endpoints: []string{m.url()}, Logger: zap.NewNop(), DialTimeout: 5 * time.Second})
		if err != nil {
			return nil, err
		}
		if err := testbed.Until(limit, "etcd", func() error { return m.put(limit, "ready", "yes") }); err != nil {
			return nil, err
		}
	}
	return e, nil
}

func (m *member) start() error {
	p, err := testbed.StartProcess(testbed.Command{Name: "etcd", Args: m.args, Log: m.log})
	m.process = p
	return err
}

func (m *member) put(ctx context.Context, key, value string) error {
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	_, err := m.client.Put(ctx, key, value)
	return err
}

// leader asks members that run which of them leads.
func (e *etcd) leader(ctx context.Context) (*member, error) {
	var leader *member
	err := testbed.Until(ctx, "etcd leader", func() error {
		for _, m := range e.members {
			if !m.process.Running() {
				continue
			}
			limit, cancel := context.WithTimeout(ctx, time.Second)
			s, err := m.client.Status(limit, m.url())
			cancel()
			if err != nil {
				return err
			}
			if s.Header.MemberId == s.Leader {
				leader = m
				return nil
			}
		}
		return fmt.Errorf("none yet")
	})
	return leader, err
}

func (e *etcd) stop() {
	for _, m := range e.members {
		if m.client != nil {
			m.client.Close()
		}
		if m.process != nil {
			m.process.Kill()
		}
		m.ports.Release()
	}
}
