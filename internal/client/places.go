package client

import "path/filepath"

const (
	// SystemDataDir is where a replica that root runs keeps its state.
	SystemDataDir = "/var/lib/sallyport"
	// AdminSocket is the name of the admin socket in a data directory.
	AdminSocket = "admin.sock"
)

// UserDir is sallyport in a directory of the XDG base directories: the one that
// variable names, else below in home; "" without either. A relative one in the
// environment is to be ignored, by the standard.
func UserDir(getenv func(string) string, home, variable, below string) string {
	if dir := getenv(variable); filepath.IsAbs(dir) {
		return filepath.Join(dir, "sallyport")
	}
	if home == "" {
		return ""
	}
	return filepath.Join(home, below, "sallyport")
}

// UserDataDir is where a replica of another user than root keeps its state, "" if
// there is no such place.
func UserDataDir(getenv func(string) string, home string) string {
	return UserDir(getenv, home, "XDG_DATA_HOME", ".local/share")
}

// Sockets are the places where a replica of this machine listens by default; the
// first that is there counts.
func Sockets(getenv func(string) string, home string) []string {
	out := []string{filepath.Join(SystemDataDir, AdminSocket)}
	if dir := UserDataDir(getenv, home); dir != "" {
		out = append(out, filepath.Join(dir, AdminSocket))
	}
	return out
}
