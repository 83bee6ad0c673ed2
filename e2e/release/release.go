package release

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// Options of a release. Only Out has no default.
type Options struct {
	Out      string        // directory that is written to
	Root     string        // the repository's top; default: around the working directory
	Version  string        // 1.2.3; default: what the sources say
	Revision string        // commit; default: git's, or none
	Created  time.Time     // stands for the clock; default: SOURCE_DATE_EPOCH, the commit's time, or 1970
	Cache    string        // for Debian's packages and built binaries; default: below testbed.Home
	Arches   []string      // of the image, and of archives; default: amd64 and arm64
	Systems  []string      // of archives; default: linux, darwin and windows
	Helm     string        // default: the testbed's, else the one in PATH
	Log      func(string)  // a line about what goes on; default: nobody listens
	binaries binariesMaker // default: go build
	builds   bool          // the binaries are ours, in Cache
	packages packagesMaker // default: apt-get
	texts    textsMaker    // default: licences of what is linked, and completions
}

// A binariesMaker gives the directory of the binaries for one system and
// architecture; a packagesMaker the packages of Debian for architectures; a
// textsMaker the files that archives have beside binaries. Tests give their
// own.
type (
	binariesMaker func(ctx context.Context, system, arch string) (string, error)
	packagesMaker func(ctx context.Context, arches []string) ([]Package, error)
	textsMaker    func(ctx context.Context) (tree, error)
)

// A Release knows what is released; its methods write it.
type Release struct {
	Options
	told map[string]bool // what is built; many steps ask for the same binaries
}

// versionForm is what Helm, image tags and file names all take.
var versionForm = regexp.MustCompile(`^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$`)

// New fills in the defaults.
func New(ctx context.Context, o Options) (*Release, error) {
	if o.Out == "" {
		return nil, errors.New("release: no directory to write to")
	}
	var err error
	if o.Root == "" {
		if o.Root, err = testbed.Root(); err != nil {
			return nil, err
		}
	}
	if o.Out, err = filepath.Abs(o.Out); err != nil {
		return nil, err
	}
	r := &Release{Options: o, told: map[string]bool{}}
	if r.builds = r.binaries == nil; r.builds {
		r.binaries = r.goBuild // before Version has its default: Go's cache then serves make build and this
		if o.Version != "" {
			r.binaries = r.goBuildVersion(o.Version)
		}
	}
	if r.Version == "" {
		if r.Version, err = sourceVersion(r.Root); err != nil {
			return nil, err
		}
	}
	if !versionForm.MatchString(r.Version) {
		return nil, fmt.Errorf("version %q: write 1.2.3 or 1.2.3-rc.1, without a v and without +", r.Version)
	}
	if r.Log == nil {
		r.Log = func(string) {}
	}
	if r.Revision == "" {
		r.Revision = r.revision(ctx)
	}
	if r.Created.IsZero() {
		if r.Created, err = created(ctx, r.Root, os.Getenv("SOURCE_DATE_EPOCH")); err != nil {
			return nil, err
		}
	}
	r.Created = r.Created.UTC().Truncate(time.Second)
	if r.Cache == "" {
		r.Cache = filepath.Join(testbed.Home(), "release")
	}
	if len(r.Arches) == 0 {
		r.Arches = []string{"amd64", "arm64"}
	}
	if len(r.Systems) == 0 {
		r.Systems = []string{"linux", "darwin", "windows"}
	}
	if r.packages == nil {
		r.packages = r.debian
	}
	if r.texts == nil {
		r.texts = r.allTexts
	}
	return r, os.MkdirAll(r.Out, 0o755)
}

// All writes everything.
func (r *Release) All(ctx context.Context) error {
	for _, step := range []func(context.Context) error{r.Archives, r.Image, r.Charts} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return r.Sums()
}

// sourceVersion is what `sallyport version` says without linker flags.
func sourceVersion(root string) (string, error) {
	main := filepath.Join(root, "cmd", "sallyport", "main.go")
	b, err := os.ReadFile(main)
	if err != nil {
		return "", err
	}
	m := regexp.MustCompile(`(?m)^var version = "(.+)"$`).FindSubmatch(b)
	if m == nil {
		return "", fmt.Errorf("%s says no version: give one (VERSION=1.2.3)", main)
	}
	return string(m[1]), nil
}

// created is the time that a release bears; see https://reproducible-builds.org/specs/source-date-epoch/.
func created(ctx context.Context, root, epoch string) (time.Time, error) {
	if epoch == "" {
		if epoch = git(ctx, root, "log", "-1", "--format=%ct"); epoch == "" {
			return time.Unix(0, 0), nil // an unpacked archive of the sources
		}
	}
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil || seconds < 0 {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH=%q: seconds since 1970 are expected", epoch)
	}
	return time.Unix(seconds, 0), nil
}

// revision is the commit; with -dirty, if it is not what is built.
func (r *Release) revision(ctx context.Context) string {
	commit := git(ctx, r.Root, "rev-parse", "HEAD")
	if commit == "" || git(ctx, r.Root, "status", "--porcelain") == "" {
		return commit
	}
	r.logf("warning: there are changes that are not committed: this is no release of %.12s, and says so (-dirty)", commit)
	return commit + "-dirty"
}

// git's answer, or none where there is no repository. It need not be the user's own: only
// questions are asked.
func git(ctx context.Context, root string, args ...string) string {
	res := testbed.Run(ctx, testbed.Command{Args: append([]string{"git", "-c", "safe.directory=*", "-C", root}, args...)})
	if res.Err != nil {
		return ""
	}
	return strings.TrimSpace(res.Stdout)
}

// logf tells what goes on.
func (r *Release) logf(format string, args ...any) { r.Log(fmt.Sprintf(format, args...)) }

// path of a file in the release.
func (r *Release) path(elem ...string) string {
	return filepath.Join(append([]string{r.Out}, elem...)...)
}

// write makes a file of the release by writing to f, and tells its size.
func (r *Release) write(name string, fill func(f *os.File) error) error {
	path := r.path(name)
	f, err := os.CreateTemp(r.Out, ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone by then, if all is well
	err = fill(f)
	info, statErr := f.Stat()
	if err = errors.Join(err, statErr, f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	if err := os.Chmod(f.Name(), 0o644); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	r.logf("%9s  %s", size(info.Size()), name)
	return nil
}

// size as people read it.
func size(n int64) string {
	if n < 1e6 {
		return fmt.Sprintf("%d kB", (n+999)/1000)
	}
	return fmt.Sprintf("%.1f MB", float64(n)/1e6)
}
