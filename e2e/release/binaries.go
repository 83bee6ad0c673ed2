package release

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// sourceURL is where the sources are.
const sourceURL = "https://github.com/sallyport-dev/sallyport"

// shipped are the programs for a system: replicas run on Unix alone.
func shipped(system string) []string {
	if system == "windows" {
		return slices.DeleteFunc(slices.Clone(programs), func(p string) bool { return p == "sallyport" })
	}
	return programs
}

// goBuild compiles as `make build` does. The directory is always the same: Go
// does not link again what is there and unchanged.
func (r *Release) goBuild(ctx context.Context, system, arch string) (string, error) {
	return r.build(ctx, system, arch, "")
}

// goBuildVersion is goBuild of another version than the sources'.
func (r *Release) goBuildVersion(version string) binariesMaker {
	return func(ctx context.Context, system, arch string) (string, error) {
		return r.build(ctx, system, arch, version)
	}
}

func (r *Release) build(ctx context.Context, system, arch, version string) (string, error) {
	dir := filepath.Join(r.Cache, "bin", system+"-"+arch)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	if target := system + "/" + arch; !r.told[target] {
		r.told[target] = true
		r.logf("building for %s: seconds if nothing changed, two minutes with empty caches", target)
	}
	args := []string{"go", "build", "-trimpath", "-buildvcs=false"} // git's word is in the bill of materials
	if version != "" {
		args = append(args, "-ldflags", "-X main.version="+version)
	}
	args = append(args, "-o", dir+"/")
	for _, p := range shipped(system) {
		args = append(args, "./cmd/"+p)
	}
	env, err := r.goEnv(ctx, system, arch)
	if err != nil {
		return "", err
	}
	if res := testbed.Run(ctx, testbed.Command{Args: args, Dir: r.Root, Env: env}); res.Err != nil {
		return "", fmt.Errorf("go build for %s/%s: %w\n%s", system, arch, res.Err, res.Stderr)
	}
	return dir, nil
}

// sources of modules are all that a release takes of the user's settings of Go.
var sources = []string{"GOPROXY", "GOSUMDB", "GOPRIVATE", "GONOPROXY", "GONOSUMDB", "GOINSECURE", "GOVCS", "GOAUTH", "GOMODCACHE", "GOCACHE"}

// goEnv is what Go compiles with: the same everywhere. What `go env -w` has set
// counts as little as variables do, but for where modules come from.
func (r *Release) goEnv(ctx context.Context, system, arch string) ([]string, error) {
	res := testbed.Run(ctx, testbed.Command{Args: append([]string{"go", "env", "-json"}, sources...), Dir: r.Root})
	if res.Err != nil {
		return nil, fmt.Errorf("go env: %w\n%s", res.Err, res.Stderr)
	}
	var settings map[string]string
	if err := json.Unmarshal([]byte(res.Stdout), &settings); err != nil {
		return nil, fmt.Errorf("go env: %w", err)
	}
	env := append(os.Environ(), "GOENV=off", "CGO_ENABLED=0", "GOOS="+system, "GOARCH="+arch, "GOWORK=off", "GOTOOLCHAIN=local",
		"GOFLAGS=", "GOEXPERIMENT=", "GOFIPS140=", "GOAMD64=v1", "GOARM64=v8.0")
	for name, value := range settings {
		env = append(env, name+"="+value)
	}
	return env, nil
}

// readBinaries builds and reads them, by their names in the release.
func (r *Release) readBinaries(ctx context.Context, system, arch string) (map[string][]byte, error) {
	if r.builds { // at a time with another release, which may be of another version
		unlock, err := testbed.Lock(ctx, filepath.Join(r.Cache, "bin.lock"))
		if err != nil {
			return nil, err
		}
		defer unlock()
	}
	dir, err := r.binaries(ctx, system, arch)
	if err != nil {
		return nil, err
	}
	binaries := map[string][]byte{}
	for _, p := range shipped(system) {
		if system == "windows" {
			p += ".exe"
		}
		if binaries[p], err = os.ReadFile(filepath.Join(dir, p)); err != nil {
			return nil, err
		}
		if err := checkMachine(binaries[p], system, arch); err != nil {
			return nil, fmt.Errorf("%s: %w", p, err)
		}
	}
	return binaries, nil
}

// buildInfo is what the linker noted in a binary.
func buildInfo(binary []byte) (*buildinfo.BuildInfo, error) {
	return buildinfo.Read(bytes.NewReader(binary))
}
