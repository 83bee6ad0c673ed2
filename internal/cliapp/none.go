package cliapp

import "time"

// none are the flags of a line that is still being typed.
type none struct{}

func (none) String(string) string          { return "" }
func (none) StringSlice(string) []string   { return nil }
func (none) Bool(string) bool              { return false }
func (none) Duration(string) time.Duration { return 0 }
func (none) Int(string) int                { return 0 }
