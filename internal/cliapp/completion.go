package cliapp

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// completeCommand is what the shells' completion functions call, with the words
// typed so far; the last one is being typed and may be empty.
const completeCommand = "__complete"

func (a *App) completionCommand() Command {
	name := a.Name
	return Command{
		Name: "completion", Usage: "print a shell's completion script", ArgsUsage: "bash|zsh|fish", MinArgs: 1, MaxArgs: 1,
		Examples: []string{
			"source <(" + name + " completion bash)",
			name + " completion zsh > \"${fpath[1]}/_" + name + "\"",
			name + " completion fish > ~/.config/fish/completions/" + name + ".fish",
		},
		Complete: func(*Call) []string { return []string{"bash", "zsh", "fish"} },
		Run: func(_ context.Context, c *Call) error {
			script := completionScript(c.Args[0])
			if script == "" {
				return api.Errorf(api.CodeInvalid, "no completion for %q, only for bash, zsh and fish", c.Args[0])
			}
			_, err := fmt.Fprint(c.Stdout, strings.ReplaceAll(script, "PROGRAM", name))
			return err
		},
	}
}

// complete prints one candidate a line. It never fails: an error on the line
// being typed is normal.
func (a *App) complete(root *Command, words []string) {
	words = joinEquals(words)
	if len(words) == 0 {
		words = []string{""}
	}
	typed, prefix := words[:len(words)-1], words[len(words)-1]
	for _, c := range a.candidates(root, typed, prefix) {
		if strings.HasPrefix(c, prefix) {
			_, _ = fmt.Fprintln(a.Stdout, Clean(c))
		}
	}
}

func (a *App) candidates(root *Command, typed []string, prefix string) []string {
	p := &parser{parsed: parsed{path: []*Command{root}, flags: [][]string{nil}}}
	call := func() *Call {
		return &Call{Args: p.args, Stdin: strings.NewReader(""), Stdout: a.Stdout, Stderr: a.Stderr, values: none{}, line: &p.parsed}
	}
	for i := 0; i < len(typed); i++ {
		if len(typed[i]) > 1 && typed[i][0] == '-' {
			name, _, hasValue := strings.Cut(strings.TrimLeft(typed[i], "-"), "=")
			f, _ := p.lookup(name)
			if f == nil {
				f = p.leaf().below(name)
			}
			if f != nil && f.Kind != Bool && !hasValue {
				if i == len(typed)-1 {
					return f.candidates(call(), prefix)
				}
				i++
			}
			continue
		}
		if p.word(typed[i]) != nil {
			return nil
		}
	}
	leaf := p.leaf()
	if name, value, ok := strings.Cut(prefix, "="); ok && strings.HasPrefix(prefix, "-") {
		f, _ := p.lookup(strings.TrimLeft(name, "-"))
		if f == nil {
			return nil
		}
		var out []string
		for _, v := range f.candidates(call(), value) {
			out = append(out, name+"="+v)
		}
		return out
	}
	var out []string
	if strings.HasPrefix(prefix, "-") {
		for _, c := range p.path {
			for _, f := range c.Flags {
				if !f.Hidden {
					out = append(out, "--"+f.Name)
				}
			}
		}
		return append(out, "--help")
	}
	for _, c := range leaf.Commands {
		if !c.Hidden {
			out = append(out, c.Name)
		}
	}
	if leaf.Complete != nil {
		out = append(out, leaf.Complete(call())...)
	}
	return out
}

// candidates are those for a flag's value, of which typed is there already.
func (f *Flag) candidates(c *Call, typed string) []string {
	out := f.Values
	if f.Complete != nil {
		out = f.Complete(c)
	}
	if i := strings.LastIndexByte(typed, ','); f.Kind == Strings && i >= 0 {
		out = slices.Clone(out)
		for n := range out {
			out[n] = typed[:i+1] + out[n]
		}
	}
	return out
}

// joinEquals undoes bash, which takes --format=json for three words.
func joinEquals(words []string) []string {
	var out []string
	for i := 0; i < len(words); i++ {
		if words[i] == "=" && len(out) > 0 && strings.HasPrefix(out[len(out)-1], "--") {
			out[len(out)-1] += "="
			if i+1 < len(words) {
				out[len(out)-1] += words[i+1]
				i++
			}
			continue
		}
		out = append(out, words[i])
	}
	return out
}

func completionScript(shell string) string {
	switch shell {
	case "bash":
		return `# bash completion for PROGRAM
_PROGRAM_complete() {
    local IFS=$'\n' cur=${COMP_WORDS[COMP_CWORD]}
    COMPREPLY=($("${COMP_WORDS[0]}" __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
    # bash splits at "=": what it replaces is only what stands behind it
    if [[ $cur == = || ${COMP_WORDS[COMP_CWORD-1]} == = ]]; then
        COMPREPLY=("${COMPREPLY[@]#*=}")
    fi
}
complete -o default -F _PROGRAM_complete PROGRAM
`
	case "zsh":
		return `#compdef PROGRAM
_PROGRAM() {
    local -a candidates
    candidates=("${(@f)$(${words[1]} __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    candidates=(${candidates:#})
    if (( $#candidates )); then
        compadd -- $candidates
    else
        _files
    fi
}
if [ "$funcstack[1]" = "_PROGRAM" ]; then
    _PROGRAM "$@"
else
    compdef _PROGRAM PROGRAM
fi
`
	case "fish":
		return `# fish completion for PROGRAM
function __PROGRAM_complete
    set -l words (commandline -opc) (commandline -ct)
    set -l candidates (PROGRAM __complete $words[2..-1] 2>/dev/null)
    if set -q candidates[1]
        printf '%s\n' $candidates
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c PROGRAM -f -a '(__PROGRAM_complete)'
`
	default:
		return ""
	}
}
