//go:build !linux

package wire

import "net"

func boundUnsent(c net.Conn) { _ = socket(c) }
