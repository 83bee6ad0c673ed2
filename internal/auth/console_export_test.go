package auth

// CheckRedirect is how the address is checked that a console login leads to.
func CheckRedirect(s string) (string, error) { return checkRedirect(s) }
