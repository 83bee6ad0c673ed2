package saml

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/beevik/etree"
	validator "github.com/mattermost/xml-roundtrip-validator"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// Namespaces of SAML 2.0 and of what it is made of.
const (
	nsProtocol  = "urn:oasis:names:tc:SAML:2.0:protocol"
	nsAssertion = "urn:oasis:names:tc:SAML:2.0:assertion"
	nsMetadata  = "urn:oasis:names:tc:SAML:2.0:metadata"
	nsSignature = "http://www.w3.org/2000/09/xmldsig#"
	nsXML       = "http://www.w3.org/XML/1998/namespace"
)

// Bounds of a document. Canonicalisation copies the namespaces in scope for each
// element: without a bound on prefixes a megabyte would cost minutes.
const (
	maxDocument   = 1 << 20
	maxDepth      = 32
	maxElements   = 20_000
	maxAttributes = 64 // of one element
	maxPrefixes   = 64 // in the document
)

// parse reads a document. Comments are for metadata alone: in an answer they serve
// only to make two parsers read one text differently.
func parse(raw []byte, comments bool) (*etree.Element, error) {
	if err := checkBytes(raw, comments); err != nil {
		return nil, err
	}
	if err := checkTokens(raw); err != nil {
		return nil, err
	}
	if err := validator.Validate(bytes.NewReader(raw)); err != nil {
		return nil, fmt.Errorf("it reads otherwise when it is written again: %s", clean(err.Error()))
	}
	doc := etree.NewDocument()
	doc.ReadSettings = etree.ReadSettings{MaxDepth: maxDepth + 1, CharsetReader: onlyUTF8}
	if err := doc.ReadFromBytes(raw); err != nil {
		return nil, badXML(err)
	}
	root := doc.Root()
	if root == nil {
		return nil, errors.New("it has no element")
	}
	return root, walk(root, checkPrefixes)
}

// badXML is what a decoder says, who quotes names however long they are.
func badXML(err error) error { return errors.New(clean(err.Error())) }

// checkPrefixes refuses prefixes that nothing declares: some parsers take them for
// their own namespace.
func checkPrefixes(e *etree.Element) error {
	if e.Space == "xmlns" || e.Space != "" && e.NamespaceURI() == "" {
		return fmt.Errorf("nothing declares the prefix of %q", clean(e.FullTag()))
	}
	for _, a := range e.Attr {
		if a.Space != "" && a.Space != "xmlns" && a.Space != "xml" && a.NamespaceURI() == "" {
			return fmt.Errorf("nothing declares the prefix of %q", clean(a.FullKey()))
		}
	}
	return nil
}

// checkBytes refuses, before any parser sees them, the constructs that parsers have
// been tricked with.
func checkBytes(raw []byte, comments bool) error {
	switch {
	case len(raw) > maxDocument:
		return fmt.Errorf("it is larger than %d bytes", maxDocument)
	case !utf8.Valid(raw):
		return errors.New("it is no UTF-8 text (compressed answers are not taken)")
	case bytes.IndexByte(raw, 0) >= 0:
		return errors.New("it holds a NUL byte")
	case bytes.Contains(raw, []byte("<?")) && bytes.LastIndex(raw, []byte("<?")) != 0,
		bytes.HasPrefix(raw, []byte("<?")) && !bytes.HasPrefix(raw, []byte("<?xml ")):
		return errors.New("it holds a processing instruction")
	}
	for rest := raw; ; {
		i := bytes.Index(rest, []byte("<!"))
		if i < 0 {
			return nil
		}
		rest = rest[i+len("<!"):]
		switch {
		case bytes.HasPrefix(rest, []byte("[CDATA[")):
		case bytes.HasPrefix(rest, []byte("--")) && comments:
		case bytes.HasPrefix(rest, []byte("--")):
			return errors.New("it holds a comment")
		default:
			return errors.New("it holds a DOCTYPE or another declaration")
		}
	}
}

func onlyUTF8(charset string, input io.Reader) (io.Reader, error) {
	if !strings.EqualFold(charset, "utf-8") {
		return nil, fmt.Errorf("its encoding is %q, only UTF-8 is taken", charset)
	}
	return input, nil
}

// checkTokens bounds the document, and refuses attributes that are there twice, of
// which encoding/xml would take both and others the first or the last.
func checkTokens(raw []byte) error {
	d := xml.NewDecoder(bytes.NewReader(raw))
	d.CharsetReader = onlyUTF8
	depth, elements, roots := 0, 0, 0
	prefixes := map[string]bool{}
	for {
		t, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return badXML(err)
		}
		switch t := t.(type) {
		case xml.StartElement:
			if depth == 0 {
				roots++
			}
			depth++
			elements++
			if err := checkAttributes(t, prefixes); err != nil {
				return err
			}
			if depth > maxDepth || elements > maxElements || len(prefixes) > maxPrefixes {
				return fmt.Errorf("it has more than %d levels, %d elements or %d namespace prefixes", maxDepth, maxElements, maxPrefixes)
			}
		case xml.EndElement:
			depth--
		case xml.CharData:
			if depth == 0 && len(bytes.TrimSpace(t)) > 0 {
				return errors.New("it has text outside of its element")
			}
		case xml.Directive:
			return errors.New("it holds a DOCTYPE or another declaration")
		}
	}
	if roots != 1 {
		return fmt.Errorf("it has %d elements at its top, not one", roots)
	}
	return nil
}

func checkAttributes(t xml.StartElement, prefixes map[string]bool) error {
	if strings.Contains(t.Name.Local, ":") { // Namespaces in XML 1.0, section 4
		return fmt.Errorf("an element has the name %q", clean(t.Name.Local))
	}
	if len(t.Attr) > maxAttributes {
		return fmt.Errorf("an element has more than %d attributes", maxAttributes)
	}
	seen := make(map[xml.Name]bool, len(t.Attr))
	for _, a := range t.Attr {
		if seen[a.Name] {
			return fmt.Errorf("an element has the attribute %q twice", clean(a.Name.Local))
		}
		seen[a.Name] = true
		switch {
		case strings.Contains(a.Name.Local, ":"), a.Name.Local == "xmlns" && a.Name.Space != "":
			return fmt.Errorf("an attribute has the name %q", clean(a.Name.Local))
		case a.Name.Space == "xmlns":
			prefixes[a.Name.Local] = true
			if a.Value == "" || a.Name.Local == "xml" || a.Name.Local == "xmlns" {
				return errors.New("it declares a namespace that can't be declared")
			}
			if err := checkNamespace(a.Value); err != nil {
				return err
			}
		case a.Name.Space == "" && a.Name.Local == "xmlns" && a.Value != "":
			if err := checkNamespace(a.Value); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkNamespace refuses relative namespace URIs: libxml2 canonicalises what holds
// one to nothing, of which everybody knows the digest ("The Fragile Lock", 2025).
func checkNamespace(uri string) error {
	if !strings.Contains(uri, ":") || uri == nsXML || strings.HasPrefix(uri, "http://www.w3.org/2000/xmlns") {
		return fmt.Errorf("it declares the namespace %q, which is relative or reserved", clean(uri))
	}
	return nil
}

// is says whether an element has the namespace and name.
func is(e *etree.Element, ns, tag string) bool { return e.Tag == tag && e.NamespaceURI() == ns }

// children are the elements of that namespace and name directly in e.
func children(e *etree.Element, ns, tag string) []*etree.Element {
	var out []*etree.Element
	for _, c := range e.ChildElements() {
		if is(c, ns, tag) {
			out = append(out, c)
		}
	}
	return out
}

// one is the only such child, nil if there is none, and an error if there are more.
func one(e *etree.Element, ns, tag string) (*etree.Element, error) {
	all := children(e, ns, tag)
	switch len(all) {
	case 0:
		return nil, nil
	case 1:
		return all[0], nil
	}
	return nil, fmt.Errorf("its %s has %d elements %s, not one", e.Tag, len(all), tag)
}

// must is one, which has to be there.
func must(e *etree.Element, ns, tag string) (*etree.Element, error) {
	c, err := one(e, ns, tag)
	if err == nil && c == nil {
		err = fmt.Errorf("its %s has no %s", e.Tag, tag)
	}
	return c, err
}

// xmlSpace is what XML calls white space; other spaces may tell two names apart.
const xmlSpace = " \t\r\n"

// text is all the text of an element, without white space around it, whatever stands between; ok is false where
// there are elements in it.
func text(e *etree.Element) (s string, ok bool) {
	var b strings.Builder
	for _, t := range e.Child {
		switch t := t.(type) {
		case *etree.CharData:
			b.WriteString(t.Data)
		case *etree.Element:
			return "", false
		}
	}
	return strings.Trim(b.String(), xmlSpace), true
}

// attr is an attribute without a prefix: SelectAttrValue would take x:ID for ID.
func attr(e *etree.Element, name string) string {
	for _, a := range e.Attr {
		if a.Space == "" && a.Key == name {
			return a.Value
		}
	}
	return ""
}

// walk visits e and all below it.
func walk(e *etree.Element, visit func(*etree.Element) error) error {
	if err := visit(e); err != nil {
		return err
	}
	for _, c := range e.ChildElements() {
		if err := walk(c, visit); err != nil {
			return err
		}
	}
	return nil
}

const maxQuoted = 200

// clean makes a stranger's words fit to be shown and logged.
func clean(s string) string {
	return strings.Join(strings.Fields(api.CleanText(s, maxQuoted)), " ")
}
