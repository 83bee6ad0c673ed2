package server

import "golang.org/x/sys/unix"

// socketUID asks the kernel who is at the other end (SO_PEERCRED, unix(7)).
func socketUID(fd int) (uint32, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, err
	}
	return cred.Uid, nil
}
