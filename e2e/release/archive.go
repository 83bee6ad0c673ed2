package release

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

// ArchiveName of the binaries for a system: sallyport-v1.2.3-linux-amd64-bin.tar.gz.
func (r *Release) ArchiveName(system, arch string) string {
	ext := ".tar.gz"
	if system == "windows" {
		ext = ".zip"
	}
	return fmt.Sprintf("sallyport-v%s-%s-%s-bin%s", r.Version, system, arch, ext)
}

// Archives writes the binaries for every system and architecture, each with a
// bill of materials.
func (r *Release) Archives(ctx context.Context) error {
	texts, err := r.texts(ctx)
	if err != nil {
		return err
	}
	for _, system := range r.Systems {
		for _, arch := range r.Arches {
			if err := r.archive(ctx, system, arch, texts); err != nil {
				return fmt.Errorf("archive for %s/%s: %w", system, arch, err)
			}
		}
	}
	return nil
}

func (r *Release) archive(ctx context.Context, system, arch string, texts tree) error {
	binaries, err := r.readBinaries(ctx, system, arch)
	if err != nil {
		return err
	}
	t := tree{}
	for name, b := range binaries {
		t.file("sallyport/"+name, 0o755, b)
	}
	for name, n := range texts {
		t["sallyport/"+name] = n
	}
	name := r.ArchiveName(system, arch)
	err = r.write(name, func(f *os.File) error {
		if strings.HasSuffix(name, ".zip") {
			return r.zip(t, f)
		}
		b, err := t.gzipped(r.Created)
		if err != nil {
			return err
		}
		_, err = f.Write(b)
		return err
	})
	if err != nil {
		return err
	}
	sbom := strings.TrimSuffix(strings.TrimSuffix(name, ".tar.gz"), ".zip") + ".cdx.json"
	return r.writeSBOM(sbom, r.binariesSBOM(name, binaries))
}

// zip writes t for those who unpack archives by clicking on them.
func (r *Release) zip(t tree, w io.Writer) error {
	zw := zip.NewWriter(w)
	zw.RegisterCompressor(zip.Deflate, func(out io.Writer) (io.WriteCloser, error) { return flate.NewWriter(out, flate.DefaultCompression) })
	earliest := r.Created
	if earliest.Year() < 1980 { // a zip knows none before
		earliest = earliest.AddDate(1980-earliest.Year(), 0, 0)
	}
	for _, name := range slices.Sorted(maps.Keys(t)) {
		h := &zip.FileHeader{Name: name, Method: zip.Deflate, Modified: earliest}
		h.SetMode(t[name].mode)
		out, err := zw.CreateHeader(h)
		if err != nil {
			return err
		}
		if _, err := io.Copy(out, bytes.NewReader(t[name].data)); err != nil {
			return err
		}
	}
	return zw.Close()
}
