package saml

import (
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/beevik/etree"
)

// surgeon changes the tree of a signed answer, by a program that a fuzzer writes:
// signature wrapping is only some of what can be done with parts and places.
type surgeon struct {
	program []byte
	doc     *etree.Document
	copies  int
}

func (s *surgeon) next(n int) int {
	if len(s.program) == 0 || n == 0 {
		return 0
	}
	b := int(s.program[0])
	s.program = s.program[1:]
	return b % n
}

func (s *surgeon) element() *etree.Element {
	var all []*etree.Element
	_ = walk(s.doc.Root(), func(e *etree.Element) error { all = append(all, e); return nil })
	return all[s.next(len(all))]
}

// renamed gives a copy other IDs, or leaves those it has.
func (s *surgeon) renamed(e *etree.Element) *etree.Element {
	if s.next(2) == 0 {
		return e
	}
	s.copies++
	_ = walk(e, func(n *etree.Element) error {
		if a := n.SelectAttr("ID"); a != nil {
			a.Value += "x" + strconv.Itoa(s.copies)
		}
		return nil
	})
	return e
}

// inside says whether a is b or below it.
func inside(a, b *etree.Element) bool {
	for ; a != nil; a = a.Parent() {
		if a == b {
			return true
		}
	}
	return false
}

// Parts of programs: texts, attributes and namespaces that checks look at.
func surgeryTexts() []string { return []string{evil, "", testEntity, testACS, "root"} }

func surgeryAttrs() []string {
	return []string{"ID", "Id", "URI", "Algorithm", "Version", "InResponseTo", "Recipient", "Format", "xmlns:saml", "xmlns:ds", "xmlns", "PrefixList", "Name"}
}

func surgeryValues() []string {
	return []string{"_a1", "_r1", "#_a1", "#_r1", "", "2.0", testACS, testFlow().RequestID(), algExclusive, algEnveloped, nsAssertion, nsProtocol, nsSignature, "groups", "uid"}
}

func (s *surgeon) step() {
	switch e := s.element(); s.next(9) {
	case 0: // copied to somewhere
		to := s.element()
		to.InsertChildAt(s.next(len(to.Child)+1), s.renamed(detach(e)))
	case 1: // moved to somewhere
		to := s.element()
		if e.Parent() != nil && e != s.doc.Root() && !inside(to, e) {
			c := detach(e)
			e.Parent().RemoveChild(e)
			to.InsertChildAt(s.next(len(to.Child)+1), c)
		}
	case 2:
		if e != s.doc.Root() {
			e.Parent().RemoveChild(e)
		}
	case 3:
		texts := surgeryTexts()
		e.SetText(texts[s.next(len(texts))])
	case 4:
		attrs, values := surgeryAttrs(), surgeryValues()
		name, value := attrs[s.next(len(attrs))], values[s.next(len(values))]
		if strings.HasPrefix(name, "xmlns") && !strings.Contains(value, ":") {
			value = nsAssertion
		}
		e.CreateAttr(name, value)
	case 5:
		if len(e.Attr) > 0 {
			e.RemoveAttr(e.Attr[s.next(len(e.Attr))].FullKey())
		}
	case 6: // copied beside itself, with another name in it
		if e != s.doc.Root() {
			c := s.renamed(e.Copy())
			_ = walk(c, func(n *etree.Element) error {
				if n.Tag == "NameID" {
					n.SetText(evil)
				}
				return nil
			})
			e.Parent().InsertChildAt(e.Index()+s.next(2), c)
		}
	case 7: // the root goes into a copy of itself
		old := s.doc.Root()
		c := s.renamed(old.Copy())
		into := c
		if all := c.ChildElements(); len(all) > 0 && s.next(2) == 0 {
			into = all[s.next(len(all))]
		}
		s.doc.SetRoot(c)
		into.InsertChildAt(s.next(len(into.Child)+1), old)
	case 8:
		other := s.element()
		e.Tag, e.Space = other.Tag, other.Space
	}
}

// mostElements keeps documents small: each copy may double them.
const mostElements = 400

func (s *surgeon) operate() {
	for range 4 {
		if len(s.program) == 0 {
			return
		}
		s.step()
		n := 0
		_ = walk(s.doc.Root(), func(*etree.Element) error { n++; return nil })
		if n > mostElements {
			return
		}
	}
}

// FuzzSurgery: whatever is done to the parts of a signed answer, it says what was
// signed, or nothing.
func FuzzSurgery(f *testing.F) {
	random := rand.New(rand.NewPCG(5, 44)) //nolint:gosec // the same programs each time
	for range 200 {
		program := make([]byte, 3+random.IntN(16))
		for i := range program {
			program[i] = byte(random.IntN(256))
		}
		f.Add(uint8(random.IntN(256)), program)
	}
	p := provider(f, connector(f))
	names := shapeNames()
	signed := make([]string, len(names))
	for i, shape := range names {
		signed[i] = written(f, honestDoc(f, shape))
	}
	want, err := finish(f, p, signed[0])
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, shape uint8, program []byte) {
		s := &surgeon{program: program, doc: readDoc(t, signed[int(shape)%len(signed)])}
		s.operate()
		doc := written(t, s.doc)
		id, err := finish(t, p, doc)
		if err != nil {
			return
		}
		if id.Subject != want.Subject || id.Username != want.Username || id.UseOnce != want.UseOnce || !id.Expires.Equal(want.Expires) ||
			strings.Join(id.Attributes["groups"], " ") != "devs ops" || len(id.Attributes) != len(want.Attributes) {
			t.Errorf("taken as %+v\n%s", id, doc)
		}
	})
}
