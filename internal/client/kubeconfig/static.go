package kubeconfig

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/atomicfile"
)

// Static is a kubeconfig of one entry, with its certificate and key, under comments
// of one line each.
func Static(e Entry, comments ...string) ([]byte, error) {
	root := mapping("apiVersion", text("v1"), "kind", text("Config"))
	for _, list := range lists() {
		put(root, list, &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq", Content: []*yaml.Node{e.item(list, nil)}})
	}
	put(root, "current-context", text(e.Name))
	body, err := encode(root)
	if err != nil {
		return nil, fmt.Errorf("write the kubeconfig: %w", err)
	}
	var out bytes.Buffer
	for _, c := range comments {
		// What ends a line for YAML would end the comment.
		out.WriteString("# " + strings.Join(strings.FieldsFunc(c, func(r rune) bool { return strings.ContainsRune("\r\n\u0085\u2028\u2029", r) }), " ") + "\n")
	}
	out.Write(body)
	return out.Bytes(), nil
}

// CheckStatic says whether WriteStatic may write there: nothing is there, or with
// overwrite any file, or else a static kubeconfig of this user, which a newer one
// replaces. It is asked before a certificate is made that could then not be kept.
func CheckStatic(path, user string, overwrite bool) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		dir, err := os.Stat(filepath.Dir(path))
		if err == nil && !dir.IsDir() || errors.Is(err, fs.ErrNotExist) {
			return api.Errorf(api.CodeInvalid, "there is no directory %s: make it first", filepath.Dir(path))
		}
		return err
	}
	if err != nil {
		return fmt.Errorf("look at %s: %w", path, err)
	}
	if !info.Mode().IsRegular() {
		return api.Errorf(api.CodeInvalid, "%s is no regular file", path)
	}
	if overwrite || info.Size() == 0 {
		return nil
	}
	src, err := os.ReadFile(path) //nolint:gosec // what the user names
	if err != nil {
		return fmt.Errorf("look at %s: %w", path, err)
	}
	owner, ok := staticUser(path, src)
	switch {
	case !ok:
		return api.Errorf(api.CodeExists, "%s exists and was not made by 'tctl auth sign': name another file, or replace it with --overwrite", path)
	case owner != user:
		return api.Errorf(api.CodeExists, "%s holds the credentials of user %q: name another file, or replace it with --overwrite", path, owner)
	}
	return nil
}

// WriteStatic replaces the file whole, for nobody but its owner to read. A link to a
// file stays one.
func WriteStatic(path string, content []byte) error {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	return atomicfile.Write(path, content, 0o600)
}

// identityScheme begins the URI in our users' certificates.
const identityScheme = "sallyport"

// staticUser is whose certificate a file holds, if Static made it and nobody has put
// anything beside. Other comments or a namespace do no harm.
func staticUser(path string, src []byte) (user string, ok bool) {
	f, err := parse(path, src)
	if err != nil || f.root == nil {
		return "", false
	}
	for _, list := range lists() {
		if seq, err := f.sequence(path, list); err != nil || seq == nil || len(seq.Content) != 1 {
			return "", false
		}
	}
	item := value(f.root, "users").Content[0]
	data, err := base64.StdEncoding.DecodeString(scalar(value(value(item, "user"), "client-certificate-data")))
	if err != nil {
		return "", false
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return "", false
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil || len(cert.URIs) != 1 || cert.URIs[0].Scheme != identityScheme {
		return "", false
	}
	return cert.Subject.CommonName, true
}
