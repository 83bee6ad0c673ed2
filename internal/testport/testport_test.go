package testport

import (
	"net"
	"strconv"
	"testing"
)

func TestNobodyElseIsGivenAReservedPort(t *testing.T) {
	seen := map[int]bool{}
	for range 20 {
		for _, port := range Reserve(t, 12) {
			if seen[port] {
				t.Fatalf("port %d was given twice", port)
			}
			seen[port] = true
		}
	}
}

func TestAPortInUseIsNotGiven(t *testing.T) {
	port := Reserve(t, 1)[0]
	if !free(port) {
		t.Fatalf("port %d is not free", port)
	}
	u, err := net.ListenPacket("udp", "127.0.0.1:"+strconv.Itoa(port))
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	if free(port) {
		t.Errorf("port %d is in use", port)
	}
}
