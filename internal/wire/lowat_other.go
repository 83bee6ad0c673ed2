//go:build !linux

package wire

import "net"

func boundUnsent(net.Conn) {}
