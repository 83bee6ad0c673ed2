package auth

import "github.com/sallyport-dev/sallyport/internal/api"

// SSO are those who have logged in through connectors, by name.
func (u *Users) SSO() []api.SSOUser { return nil }
