package release

import (
	"fmt"
	"path"
	"regexp"
	"strings"
)

// readme of the archives. The repository's speaks of sources, which are not in
// them, and leads to files that aren't either.
func (r *Release) readme() []byte {
	return fmt.Appendf(nil, `# Sallyport %s

Access to many Kubernetes clusters through one address: short-lived certificates instead of shared kubeconfigs, roles, one
audit trail.

| | |
|---|---|
| tsh | people log in with it, and kubectl goes through it |
| tctl | administers a cluster |
| sallyport | a replica, or the agent of a Kubernetes cluster; not for Windows |
| man/ | manual pages: man man/tsh.1 |
| completions/ | for bash, zsh and fish |
| LICENSE, %s | ours, and those of what is linked in |

Install them; on Windows move the .exe files to a folder that is in Path.

    sudo install tsh tctl sallyport /usr/local/bin/

Log in where Sallyport runs:

    tsh login --proxy=tele.example.com --user=alice
    kubectl get pods

Or try it on this machine, with nothing else. It says what to type next.

    sallyport start

Each program explains itself (tsh --help, tctl users add --help). All else is in the folder docs of the sources, which are at
%s.
`, r.Version, thirdParty, sourceURL)
}

var markdownLink = regexp.MustCompile(`!?\[([^\]]*)\]\(([^)\s]+)\)`)

// unlinked is a Markdown file (named as in the repository) for those who have only
// some of the repository's files: of a link to what they don't have, the words stay and
// the name of the file.
func unlinked(name string, text []byte, has func(file string) bool) []byte {
	return markdownLink.ReplaceAllFunc(text, func(link []byte) []byte {
		m := markdownLink.FindSubmatch(link)
		words, target := string(m[1]), string(m[2])
		file, _, _ := strings.Cut(target, "#")
		if file == "" || strings.Contains(target, "://") {
			return link
		}
		if file = path.Join(path.Dir(name), file); has(file) {
			return link
		}
		if strings.Contains(words, file) {
			return []byte(words)
		}
		return []byte(words + " (" + file + ")")
	})
}
