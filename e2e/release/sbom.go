package release

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// binariesSBOM is the bill of materials of an archive: its binaries, and the
// modules that the linker put into them, as it noted them.
func (r *Release) binariesSBOM(name string, binaries map[string][]byte) func() (*cdx.BOM, error) {
	return func() (*cdx.BOM, error) {
		components, err := r.goComponents(binaries)
		if err != nil {
			return nil, err
		}
		subject := cdx.Component{BOMRef: name, Type: cdx.ComponentTypeApplication, Name: name, Version: r.Version, Licenses: &cdx.Licenses{{License: &cdx.License{ID: "Apache-2.0"}}}}
		return r.bom(subject, components), nil
	}
}

// imageSBOM is that of an image: Debian's packages too.
func (r *Release) imageSBOM(v variant, arch string, l *archLayers, packages []Package) func() (*cdx.BOM, error) {
	return func() (*cdx.BOM, error) {
		components, err := r.goComponents(l.binaries)
		if err != nil {
			return nil, err
		}
		for _, p := range forArch(packages, arch) {
			if p.Name == "busybox-static" && !v.shell {
				continue
			}
			components = append(components, p.component())
		}
		tag := r.Tag(!v.shell)
		subject := cdx.Component{BOMRef: ImageName + ":" + tag + "-" + arch, Type: cdx.ComponentTypeContainer, Name: ImageName, Version: tag, Licenses: &cdx.Licenses{{Expression: v.licenses}}}
		return r.bom(subject, components), nil
	}
}

func (p Package) component() cdx.Component {
	vendor, _, _ := strings.Cut(p.Distro, "-")
	purl := fmt.Sprintf("pkg:deb/%s/%s@%s?arch=%s&distro=%s", vendor, p.Name, url.PathEscape(p.Version), p.Arch, p.Distro)
	// Debian's security tracker knows source packages alone.
	if source, version, other := strings.Cut(strings.TrimSuffix(p.Source, ")"), " ("); other {
		purl += "&upstream=" + url.QueryEscape(source+"@"+version)
	} else if source != "" && source != p.Name {
		purl += "&upstream=" + url.QueryEscape(source)
	}
	return cdx.Component{BOMRef: purl, Type: cdx.ComponentTypeLibrary, Name: p.Name, Version: p.Version, PackageURL: purl,
		Properties: &[]cdx.Property{{Name: "debian:source", Value: p.Source}}}
}

// goComponents are the binaries and, each once, what they are made of.
func (r *Release) goComponents(binaries map[string][]byte) ([]cdx.Component, error) {
	modules := map[string]cdx.Component{}
	var components []cdx.Component
	for _, name := range slices.Sorted(maps.Keys(binaries)) {
		info, err := buildInfo(binaries[name])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		sum := fmt.Sprintf("%x", sha256.Sum256(binaries[name]))
		components = append(components, cdx.Component{
			BOMRef: "binary:" + name, Type: cdx.ComponentTypeApplication, Name: name, Version: r.Version,
			Hashes: &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: sum}},
		})
		std := &debug.Module{Path: "std", Version: strings.TrimPrefix(info.GoVersion, "go")}
		for _, m := range append(info.Deps, std) {
			c := goModule(m)
			modules[c.BOMRef] = c
		}
	}
	for _, ref := range slices.Sorted(maps.Keys(modules)) {
		components = append(components, modules[ref])
	}
	return components, nil
}

// goModule as a component; see https://github.com/package-url/purl-spec for
// its name.
func goModule(m *debug.Module) cdx.Component {
	if m.Replace != nil {
		m = m.Replace
	}
	purl := "pkg:golang/" + m.Path + "@" + url.PathEscape(m.Version)
	c := cdx.Component{BOMRef: purl, Type: cdx.ComponentTypeLibrary, Name: m.Path, Version: m.Version, PackageURL: purl}
	if m.Sum != "" { // Go's hash of a module's files, not a hash of one file
		c.Properties = &[]cdx.Property{{Name: "go:sum", Value: m.Sum}}
	}
	return c
}

func (r *Release) bom(subject cdx.Component, components []cdx.Component) *cdx.BOM {
	slices.SortStableFunc(components, func(a, b cdx.Component) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.BOMRef, b.BOMRef))
	})
	b := cdx.NewBOM()
	subject.ExternalReferences = &[]cdx.ExternalReference{{URL: sourceURL, Type: cdx.ERTypeVCS}}
	if r.Revision != "" {
		subject.Properties = &[]cdx.Property{{Name: "vcs:revision", Value: r.Revision}}
	}
	b.Metadata = &cdx.Metadata{Timestamp: r.Created.Format(time.RFC3339), Component: &subject}
	b.Components = &components
	refs := make([]string, len(components))
	for i, c := range components {
		refs[i] = c.BOMRef
	}
	b.Dependencies = &[]cdx.Dependency{{Ref: subject.BOMRef, Dependencies: &refs}}
	return b
}

// writeSBOM writes it with a serial number that its content gives: the same
// content has the same.
func (r *Release) writeSBOM(name string, bill func() (*cdx.BOM, error)) error {
	b, err := bill()
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	content, err := json.Marshal(b)
	if err != nil {
		return err
	}
	id := sha256.Sum256(content)
	id[6], id[8] = id[6]&0x0f|0x80, id[8]&0x3f|0x80 // RFC 9562, version 8: made by a way of one's own
	b.SerialNumber = fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:16])
	return r.write(name, func(f *os.File) error {
		return cdx.NewBOMEncoder(f, cdx.BOMFileFormatJSON).SetPretty(true).Encode(b)
	})
}
