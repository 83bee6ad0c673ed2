// Package browser drives a real Chromium, headless, for what people see.
//
// It trusts the certificates of the servers it is told of, and these only after
// they were verified: any other is an error page, as it is for people.
package browser
