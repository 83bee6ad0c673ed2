package release

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// ImageName is what charts call the image, without a tag.
const ImageName = "sallyport.local/sallyport"

// A variant of the image.
type variant struct {
	suffix   string // of tag and file
	shell    bool
	title    string
	licenses string // SPDX
}

func variants() []variant {
	return []variant{
		{"", true, "Sallyport", "Apache-2.0 AND MPL-2.0 AND GPL-2.0-only"}, // MPL: the certificates; GPL: busybox
		{"-distroless", false, "Sallyport, without a shell", "Apache-2.0 AND MPL-2.0"},
	}
}

// Tag of the image; distroless: of the variant without a shell.
func (r *Release) Tag(distroless bool) string {
	if distroless {
		return r.Version + "-distroless"
	}
	return r.Version
}

// ImageTar is the name of the image's file in Out.
func (r *Release) ImageTar(distroless bool) string {
	return "sallyport-" + r.Tag(distroless) + ".oci.tar"
}

// Image writes both variants, each an OCI image layout in a tar, with an index
// of all architectures and a bill of materials for each.
func (r *Release) Image(ctx context.Context) error {
	packages, err := r.packages(ctx, r.Arches)
	if err != nil {
		return err
	}
	texts, err := r.texts(ctx)
	if err != nil {
		return err
	}
	layers := map[string]*archLayers{}
	for _, arch := range r.Arches {
		r.logf("packing the image for linux/%s", arch)
		if layers[arch], err = r.layers(ctx, packages, texts, arch); err != nil {
			return fmt.Errorf("image for %s: %w", arch, err)
		}
	}
	for _, v := range variants() {
		index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
		for _, arch := range r.Arches {
			img, err := r.image(v, arch, layers[arch])
			if err != nil {
				return fmt.Errorf("image for %s: %w", arch, err)
			}
			index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
			if err := r.writeSBOM(fmt.Sprintf("sallyport-%s%s-image-linux-%s.cdx.json", r.Version, v.suffix, arch), r.imageSBOM(v, arch, layers[arch], packages)); err != nil {
				return err
			}
		}
		index, ok := mutate.Annotations(index, r.annotations(v)).(v1.ImageIndex)
		if !ok {
			return errors.New("an annotated index is no index")
		}
		if err := r.writeLayout(v, index); err != nil {
			return err
		}
	}
	return nil
}

// archLayers are the layers of one architecture, which the variants share.
type archLayers struct {
	base, shell, product v1.Layer
	binaries             map[string][]byte
}

// layers builds and compresses them side by side; it has no use for more than
// two processors.
func (r *Release) layers(ctx context.Context, packages []Package, texts tree, arch string) (*archLayers, error) {
	binaries, err := r.readBinaries(ctx, "linux", arch)
	if err != nil {
		return nil, err
	}
	baseTree, err := base(packages, arch)
	if err != nil {
		return nil, err
	}
	shellTree, err := shell(packages, arch)
	if err != nil {
		return nil, err
	}
	l := &archLayers{binaries: binaries}
	var (
		wg   sync.WaitGroup
		errs [3]error
	)
	for i, job := range []struct {
		to   *v1.Layer
		from tree
	}{{&l.product, product(binaries, texts)}, {&l.base, baseTree}, {&l.shell, shellTree}} {
		wg.Go(func() { *job.to, errs[i] = layer(job.from) })
	}
	wg.Wait()
	return l, errors.Join(errs[:]...)
}

// layer is t in gzip. Its files are of 1970, so that a layer whose files did
// not change is the same in every release, and nodes have it already.
func layer(t tree) (v1.Layer, error) {
	b, err := t.gzipped(time.Unix(0, 0))
	if err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }, tarball.WithMediaType(types.OCILayer))
}

// image of a variant for one architecture.
func (r *Release) image(v variant, arch string, l *archLayers) (v1.Image, error) {
	add := []mutate.Addendum{{Layer: l.base, History: r.history("Debian: ca-certificates tzdata")}}
	if v.shell {
		add = append(add, mutate.Addendum{Layer: l.shell, History: r.history("Debian: busybox-static")})
	}
	add = append(add, mutate.Addendum{Layer: l.product, History: r.history("sallyport tctl tsh " + r.Version)})
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.Append(img, add...)
	if err != nil {
		return nil, err
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture, cfg.Created = "linux", arch, v1.Time{Time: r.Created}
	cfg.Config = v1.Config{
		User:       userGID,
		WorkingDir: "/",
		Entrypoint: []string{"/usr/local/bin/sallyport"},
		// The state's place is that of a replica of root's: whoever runs the image mounts a volume there.
		Env:        []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/home/nonroot", "SALLYPORT_DATA_DIR=/" + stateDir},
		StopSignal: "SIGTERM",
		ExposedPorts: map[string]struct{}{
			"3080/tcp": {}, "3026/tcp": {}, "3000/tcp": {}, "3081/tcp": {}, // people, kubectl, health and metrics, ACME
			"7443/tcp": {}, "7946/tcp": {}, "7946/udp": {}, // other replicas
		},
		Labels: r.annotations(v),
	}
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		return nil, err
	}
	annotated, ok := mutate.Annotations(img, r.annotations(v)).(v1.Image)
	if !ok {
		return nil, errors.New("an annotated image is no image")
	}
	return annotated, nil
}

func (r *Release) history(what string) v1.History {
	return v1.History{Created: v1.Time{Time: r.Created}, CreatedBy: what}
}

// annotations of the OCI image specification; they are the labels too.
func (r *Release) annotations(v variant) map[string]string {
	a := map[string]string{
		"org.opencontainers.image.title":       v.title,
		"org.opencontainers.image.description": "An access gate before Kubernetes: replica (sallyport), tctl and tsh",
		"org.opencontainers.image.version":     r.Tag(!v.shell),
		"org.opencontainers.image.created":     r.Created.Format(time.RFC3339),
		"org.opencontainers.image.licenses":    v.licenses,
		"org.opencontainers.image.source":      sourceURL,
		"org.opencontainers.image.url":         sourceURL,
	}
	if r.Revision != "" {
		a["org.opencontainers.image.revision"] = r.Revision
	}
	return a
}

// writeLayout writes index as an OCI image layout in a tar. Its one entry is
// named twice: as containerd reads it, and as the specification has it.
func (r *Release) writeLayout(v variant, index v1.ImageIndex) error {
	dir, err := os.MkdirTemp(r.Out, ".layout-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	l, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	tag := r.Tag(!v.shell)
	if err := l.AppendIndex(index, layout.WithAnnotations(map[string]string{
		"io.containerd.image.name":          ImageName + ":" + tag,
		"org.opencontainers.image.ref.name": tag,
	})); err != nil {
		return err
	}
	return r.write(r.ImageTar(!v.shell), func(f *os.File) error { return tarDir(f, dir) })
}

// tarDir streams the files of dir: they are too large for a tree.
func tarDir(w io.Writer, dir string) error {
	files := map[string]int64{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		files[filepath.ToSlash(rel)] = info.Size()
		return nil
	})
	if err != nil {
		return err
	}
	tw := tar.NewWriter(w)
	for _, name := range slices.SortedFunc(maps.Keys(files), layoutOrder) {
		if err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: files[name], ModTime: time.Unix(0, 0), Typeflag: tar.TypeReg, Format: tar.FormatPAX}); err != nil {
			return err
		}
		if err := copyFile(tw, filepath.Join(dir, filepath.FromSlash(name))); err != nil {
			return err
		}
	}
	return tw.Close()
}

// layoutOrder has what says what this is before the blobs: who reads the tar
// as a stream then knows at once.
func layoutOrder(a, b string) int {
	rank := func(name string) string {
		switch {
		case name == "oci-layout":
			return "0"
		case name == "index.json":
			return "1"
		}
		return "2" + name
	}
	return strings.Compare(rank(a), rank(b))
}

func copyFile(w io.Writer, path string) error {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	_, err = io.Copy(w, in)
	return err
}
