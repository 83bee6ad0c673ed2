package selector

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/api"
)

const (
	maxQuery = 4 << 10 // bytes
	maxDepth = 64      // of parentheses and exclamation marks
)

type predicate func(*api.KubeCluster) bool

// operand is a text that a cluster has, or a literal; false: it has none, as for
// a label that it lacks.
type operand func(*api.KubeCluster) (string, bool)

// parser reads a query by recursive descent.
type parser struct {
	text  string
	at    int // bytes read
	depth int
}

func parse(query string) (predicate, error) {
	if len(query) > maxQuery {
		return nil, fmt.Errorf("%d bytes are too long, at most %d are allowed", len(query), maxQuery)
	}
	p := &parser{text: query}
	out, err := p.or()
	if err != nil {
		return nil, err
	}
	if p.space(); p.at < len(p.text) {
		return nil, p.wrong("&& or || or the end")
	}
	return out, nil
}

// wrong is the error where something else was wanted.
func (p *parser) wrong(want string) error {
	p.space()
	if p.at == len(p.text) {
		return fmt.Errorf("it ends where %s was wanted", want)
	}
	rest := p.text[p.at:]
	return fmt.Errorf("at character %d, %q: want %s", p.at+1, rest[:min(len(rest), 20)], want)
}

func (p *parser) space() {
	for p.at < len(p.text) && strings.IndexByte(" \t\r\n", p.text[p.at]) >= 0 {
		p.at++
	}
}

// take reads a symbol if it is next.
func (p *parser) take(symbol string) bool {
	p.space()
	if strings.HasPrefix(p.text[p.at:], symbol) {
		p.at += len(symbol)
		return true
	}
	return false
}

func (p *parser) or() (predicate, error) {
	left, err := p.and()
	for err == nil && p.take("||") {
		first := left
		var second predicate
		second, err = p.and()
		left = func(k *api.KubeCluster) bool { return first(k) || second(k) }
	}
	return left, err
}

func (p *parser) and() (predicate, error) {
	left, err := p.not()
	for err == nil && p.take("&&") {
		first := left
		var second predicate
		second, err = p.not()
		left = func(k *api.KubeCluster) bool { return first(k) && second(k) }
	}
	return left, err
}

func (p *parser) not() (predicate, error) {
	p.depth++
	defer func() { p.depth-- }()
	if p.depth > maxDepth {
		return nil, fmt.Errorf("nested deeper than %d levels", maxDepth)
	}
	switch {
	case p.take("!"):
		inner, err := p.not()
		return func(k *api.KubeCluster) bool { return !inner(k) }, err
	case p.take("("):
		inner, err := p.or()
		if err == nil && !p.take(")") {
			err = p.wrong(")")
		}
		return inner, err
	}
	return p.comparison()
}

func (p *parser) comparison() (predicate, error) {
	start := p.at
	if name := p.word(); name != "" && p.take("(") {
		return p.call(name, start)
	}
	p.at = start
	left, err := p.operand()
	if err != nil {
		return nil, err
	}
	same := p.take("==")
	if !same && !p.take("!=") {
		return nil, p.wrong("== or !=")
	}
	right, err := p.operand()
	return func(k *api.KubeCluster) bool { return equal(k, left, right) == same }, err
}

func equal(k *api.KubeCluster, a, b operand) bool {
	left, okLeft := a(k)
	right, okRight := b(k)
	return okLeft && okRight && left == right
}

// functions are those of a query by name, with how many operands they take.
func functions() map[string]struct {
	operands int // -1: one or more
	call     func(k *api.KubeCluster, args []operand) bool
} {
	type function = struct {
		operands int
		call     func(k *api.KubeCluster, args []operand) bool
	}
	return map[string]function{
		"equals": {2, func(k *api.KubeCluster, args []operand) bool { return equal(k, args[0], args[1]) }},
		"exists": {1, func(k *api.KubeCluster, args []operand) bool {
			_, ok := args[0](k)
			return ok
		}},
		"hasPrefix": {2, func(k *api.KubeCluster, args []operand) bool {
			text, ok := args[0](k)
			prefix, _ := args[1](k)
			return ok && strings.HasPrefix(text, prefix)
		}},
		"search": {-1, func(k *api.KubeCluster, args []operand) bool {
			for _, arg := range args {
				if word, _ := arg(k); !mentions(k, strings.ToLower(word)) {
					return false
				}
			}
			return true
		}},
	}
}

// mentions says whether a word stands in a cluster's name or labels.
func mentions(k *api.KubeCluster, word string) bool {
	if strings.Contains(strings.ToLower(k.Name), word) {
		return true
	}
	for key, value := range k.Labels {
		if strings.Contains(strings.ToLower(key), word) || strings.Contains(strings.ToLower(value), word) {
			return true
		}
	}
	return false
}

func (p *parser) call(name string, start int) (predicate, error) {
	known := functions()
	fn, ok := known[name]
	if !ok {
		p.at = start
		var names []string
		for n := range known {
			names = append(names, n)
		}
		return nil, p.wrong("equals, exists, hasPrefix or search" + api.DidYouMean(name, names))
	}
	var args []operand
	for {
		arg, err := p.operand()
		if err != nil {
			return nil, err
		}
		if args = append(args, arg); !p.take(",") {
			break
		}
	}
	if !p.take(")") {
		return nil, p.wrong(") or a comma")
	}
	if fn.operands > 0 && len(args) != fn.operands {
		return nil, fmt.Errorf("%s takes %d arguments, not %d", name, fn.operands, len(args))
	}
	return func(k *api.KubeCluster) bool { return fn.call(k, args) }, nil
}

const operands = `a text in double quotes, name, labels["…"], health or version`

func (p *parser) operand() (operand, error) {
	p.space()
	if p.at < len(p.text) && p.text[p.at] == '"' {
		text, err := p.quoted()
		return func(*api.KubeCluster) (string, bool) { return text, true }, err
	}
	start := p.at
	switch name := p.word(); name {
	case "name":
		return func(k *api.KubeCluster) (string, bool) { return k.Name, true }, nil
	case "health", "health.status":
		return func(k *api.KubeCluster) (string, bool) {
			if k.Status == nil {
				return string(api.HealthUnknown), true
			}
			return string(cmp.Or(k.Status.Health, api.HealthUnknown)), true
		}, nil
	case "version":
		return func(k *api.KubeCluster) (string, bool) {
			if k.Status == nil {
				return "", false
			}
			return k.Status.Version, k.Status.Version != ""
		}, nil
	case "labels":
		if !p.take("[") {
			return nil, p.wrong(`["KEY"]`)
		}
		p.space()
		key, err := p.quoted()
		if err == nil && !p.take("]") {
			err = p.wrong("]")
		}
		return label(key), err
	default:
		if key, ok := strings.CutPrefix(name, "labels."); ok && key != "" {
			return label(key), nil
		}
	}
	p.at = start
	return nil, p.wrong(operands)
}

func label(key string) operand {
	return func(k *api.KubeCluster) (string, bool) {
		value, ok := k.Labels[key]
		return value, ok
	}
}

// word reads letters, digits and what may stand between them in a label's key.
func (p *parser) word() string {
	p.space()
	start := p.at
	for p.at < len(p.text) {
		c := p.text[p.at]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_'
		if !letter && (p.at == start || strings.IndexByte("0123456789.-/", c) < 0) {
			break
		}
		p.at++
	}
	return p.text[start:p.at]
}

func (p *parser) quoted() (string, error) {
	if prefix, err := strconv.QuotedPrefix(p.text[p.at:]); err == nil && prefix[0] == '"' {
		p.at += len(prefix)
		return strconv.Unquote(prefix)
	}
	return "", p.wrong("a text in double quotes")
}
