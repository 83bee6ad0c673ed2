package release

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// instructions of a Dockerfile by their names, a stage's beneath FROM's own name ("base
// USER"), with continued lines joined and blanks squeezed.
func instructions(text string) map[string][]string {
	all := map[string][]string{}
	stage := ""
	for line := range strings.Lines(strings.ReplaceAll(text, "\\\n", " ")) {
		words := strings.Fields(line)
		if len(words) < 2 || strings.HasPrefix(words[0], "#") {
			continue
		}
		if words[0] == "FROM" {
			stage = words[len(words)-1] + " "
		}
		all[stage+words[0]] = append(all[stage+words[0]], strings.Join(words[1:], " "))
	}
	return all
}

// CI builds no image with Docker, so this is what keeps the Dockerfile from saying something
// else than the image that is released.
func TestDockerfileMakesTheSameImage(t *testing.T) {
	r := stub(t, func(o *Options) { o.Arches = []string{"amd64"} })
	root, err := testbed.Root()
	if err != nil {
		t.Fatal(err)
	}
	docker := instructions(read(t, filepath.Join(root, "charts", "image", "Dockerfile")))
	packages, err := r.packages(t.Context(), r.Arches)
	if err != nil {
		t.Fatal(err)
	}
	texts, err := r.texts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	layers, err := r.layers(t.Context(), packages, texts, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	img, err := r.image(variants()[0], "amd64", layers)
	if err != nil {
		t.Fatal(err)
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c := file.Config
	entry, err := json.Marshal(c.Entrypoint)
	if err != nil {
		t.Fatal(err)
	}
	one := func(key string) string { return strings.Join(docker["base "+key], "\n") }
	for key, want := range map[string]string{
		"USER": c.User, "WORKDIR": c.WorkingDir, "STOPSIGNAL": c.StopSignal, "ENTRYPOINT": string(entry), "CMD": strings.Join(c.Cmd, " "), "VOLUME": "", "HEALTHCHECK": "",
		// HOME is the account's, and PATH the base's.
		"ENV": strings.Join(slices.DeleteFunc(slices.Clone(c.Env), func(s string) bool { return strings.HasPrefix(s, "PATH=") || strings.HasPrefix(s, "HOME=") }), "\n"),
	} {
		if got := one(key); got != want {
			t.Errorf("%s is %q, and the image's %q", key, got, want)
		}
	}
	var ports []string
	for port := range strings.FieldsSeq(one("EXPOSE")) {
		if !strings.Contains(port, "/") {
			port += "/tcp"
		}
		ports = append(ports, port)
	}
	slices.Sort(ports)
	if diff := cmp.Diff(slices.Sorted(maps.Keys(c.ExposedPorts)), ports); diff != "" {
		t.Errorf("ports (-image +Dockerfile):\n%s", diff)
	}
	placesOfDockerfile(t, docker, packages)
	for _, stage := range []string{"from-dist", "from-source"} {
		if diff := cmp.Diff([]string{"base AS " + stage}, docker[stage+" FROM"]); diff != "" || len(docker[stage+" COPY"]) != 1 || !strings.HasSuffix(docker[stage+" COPY"][0], " /out/ /usr/local/bin/") {
			t.Errorf("%s: %v, %v", stage, docker[stage+" FROM"], docker[stage+" COPY"])
		}
	}
}

// placesOfDockerfile looks for the commands that make what the image's layers have.
func placesOfDockerfile(t *testing.T, docker map[string][]string, packages []Package) {
	t.Helper()
	layer, err := base(packages, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	state := layer[stateDir]
	want := map[string][]string{
		"base RUN": {
			fmt.Sprintf("groupadd --gid %d nonroot ", nonroot), fmt.Sprintf("useradd --uid %d --gid %d --create-home ", nonroot, nonroot),
			fmt.Sprintf("install -d -m 0%o -o %d -g %d /%s ", state.mode.Perm(), state.uid, state.gid, stateDir),
			"install -y --no-install-recommends ca-certificates tzdata ",
		},
		"build RUN":  {"CGO_ENABLED=0 ", "GOTOOLCHAIN=local ", "go build -trimpath -buildvcs=false ", "-X main.version="},
		"unpack RUN": {"-bin.tar.gz "},
	}
	for name, n := range product(nil, tree{}) {
		if n.link != "" {
			want["base RUN"] = append(want["base RUN"], fmt.Sprintf("ln -s %s /%s ", n.link, name))
		}
	}
	for _, p := range programs {
		want["build RUN"] = append(want["build RUN"], " ./cmd/"+p+" ")
		want["unpack RUN"] = append(want["unpack RUN"], " sallyport/"+p+" ")
	}
	for key, commands := range want {
		text := strings.Join(docker[key], " ") + " "
		for _, command := range commands {
			if !strings.Contains(text, command) {
				t.Errorf("%s lacks %q: %s", key, command, text)
			}
		}
	}
	if n := strings.Count(strings.Join(docker["base RUN"], " "), "ln -s "); n != len(tctlNames) {
		t.Errorf("%d links, and the image has %d", n, len(tctlNames))
	}
}

// Docker sends the builder what .dockerignore lets through: all that is compiled, or the build
// fails, and nothing of the house besides.
func TestDockerIsSentWhatIsCompiled(t *testing.T) {
	root, err := testbed.Root()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"go", "list", "-deps", "-f", "{{with .Module}}{{if .Main}}{{$.ImportPath}}{{end}}{{end}}"}
	for _, p := range programs {
		args = append(args, "./cmd/"+p)
	}
	res := testbed.Run(t.Context(), testbed.Command{Args: args, Dir: root, Env: append(os.Environ(), "GOWORK=off", "GOTOOLCHAIN=local", "GOOS=linux", "CGO_ENABLED=0")})
	if res.Err != nil {
		t.Fatalf("%v\n%s", res.Err, res.Stderr)
	}
	want := map[string]bool{"*": true, "!go.mod": true, "!go.sum": true, "!LICENSE": true, "!dist/*-bin.tar.gz": true}
	for pkg := range strings.FieldsSeq(res.Stdout) {
		if _, below, ok := strings.Cut(pkg, "/sallyport/"); ok {
			top, _, _ := strings.Cut(below, "/")
			want["!"+top] = true
		}
	}
	got := strings.Fields(read(t, filepath.Join(root, "charts", "image", "Dockerfile.dockerignore")))
	slices.Sort(got)
	if diff := cmp.Diff(slices.Sorted(maps.Keys(want)), got); diff != "" {
		t.Errorf(".dockerignore (-what is compiled +file):\n%s", diff)
	}
}
