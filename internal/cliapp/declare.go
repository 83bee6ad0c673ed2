package cliapp

import "encoding/json"

// declareCommand is what the generator of the documentation calls: it prints the
// declarations as JSON, a Declared.
const declareCommand = "__declare"

// Declared is a program as its documentation sees it.
type Declared struct {
	Name, Usage, Description string
	Flags                    []Flag // known to every command
	Commands                 []DeclaredCommand
	Environment              []Variable // of everything in the program
}

// DeclaredCommand is a command or a group, without what is hidden.
type DeclaredCommand struct {
	Path               string // "tctl users add"
	Line               string // "tctl users add [flags] NAME"
	Aliases            []string
	Usage, Description string
	Examples           []string
	Flags              []Flag
	Group              bool // it does nothing itself
}

func (a *App) declare(root *Command) error {
	path := []*Command{root}
	out := Declared{Name: a.Name, Usage: a.Usage, Description: a.Description, Flags: visible(a.Flags)}
	for _, v := range a.variables(path) {
		out.Environment = append(out.Environment, Variable{v[0], v[1]})
	}
	var walk func(path []*Command)
	walk = func(path []*Command) {
		c := path[len(path)-1]
		if c.Hidden {
			return
		}
		if len(path) > 1 {
			out.Commands = append(out.Commands, DeclaredCommand{
				Path: pathName(path), Line: usageLine(path), Aliases: c.Aliases, Usage: c.Usage, Description: c.Description,
				Examples: c.Examples, Flags: visible(c.Flags), Group: c.Run == nil,
			})
		}
		for i := range c.Commands {
			walk(append(path[:len(path):len(path)], &c.Commands[i]))
		}
	}
	walk(path)
	enc := json.NewEncoder(a.Stdout)
	enc.SetEscapeHTML(false)
	return enc.Encode(out)
}

func visible(flags []Flag) []Flag {
	var out []Flag
	for _, f := range flags {
		if !f.Hidden {
			out = append(out, f)
		}
	}
	return out
}
