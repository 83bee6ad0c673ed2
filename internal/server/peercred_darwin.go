package server

import "golang.org/x/sys/unix"

// socketUID asks the kernel who is at the other end (LOCAL_PEERCRED, unix(4)).
func socketUID(fd int) (uint32, error) {
	cred, err := unix.GetsockoptXucred(fd, unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
	if err != nil {
		return 0, err
	}
	return cred.Uid, nil
}
